"""V-JEPA 2-AC, the action-conditioned world model of Meta, with its official weights (arXiv 2506.09985, section 3)."""
