"""Optimisers over action sequences, one file each."""
