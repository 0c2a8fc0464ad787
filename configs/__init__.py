"""Values (YAML, Hydra groups) and the one door through which commands read them (`configs.command`)."""
