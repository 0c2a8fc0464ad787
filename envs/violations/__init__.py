"""Pairs of clips that share every frame up to a break, after which one of them goes on as physics does not allow."""
