"""Errors, specifications, seeds and files for all packages. This package imports nothing else of this project."""
