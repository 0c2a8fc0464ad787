"""Short clips of moving objects whose labels only the motion shows."""
