"""Encoders that others have trained. Their weights stay in their own files, which checkpoints refer to."""
