"""Knots, noise and limits of action sequences, and the final safety check."""
