"""Inverse dynamics: actions that lead from one latent to another. No model needs it to act."""
