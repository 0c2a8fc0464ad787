"""Landmarks: sub-goals from the recording for a frozen world model."""
