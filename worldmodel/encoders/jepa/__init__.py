"""V-JEPA: the objective, its masks, and pretraining with it."""
