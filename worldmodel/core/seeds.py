"""Ranges of seeds. No evaluation repeats an episode of the training data, and no two steps share their noise."""

# Recordings reset their environments with smaller seeds, manifests with these and larger ones.
FIRST_EVALUATION_SEED = 2**31

_STRIDE = 1_000_003  # more steps than any run has


def seed_of_step(seed: int, step: int) -> int:
    """Of what is random in step `step` of a run with `seed`: the same, however the run came to that step."""
    return seed * _STRIDE + step
