"""Frozen encoders: pictures to tokens."""
