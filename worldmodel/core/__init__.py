"""Errors, specifications, seeds and files, which all packages share. It imports nothing else of this project."""
