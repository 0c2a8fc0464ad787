"""Training loops, and the folders of their runs."""
