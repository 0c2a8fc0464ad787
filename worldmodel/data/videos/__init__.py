"""Clips for pretraining from video files, which are decoded in other processes."""
