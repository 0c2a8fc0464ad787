"""The command line. No other package imports Hydra or rich."""
