"""Frozen encoders from images to tokens."""
