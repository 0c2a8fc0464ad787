"""Action sequences: knots, noise, limits, and the final safety check."""
