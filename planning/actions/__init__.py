"""Action sequences: knots, noise and the last gate before a robot."""
