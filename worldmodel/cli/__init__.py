"""The command line: the only room that imports Hydra and rich."""
