"""Ranges of seeds. No evaluation repeats an episode of the training data, and no two steps share their noise."""

# Recordings reset their environments with smaller seeds. Evaluation manifests use this seed and larger ones.
FIRST_EVALUATION_SEED = 2**31

_STRIDE = 1_000_003  # more steps than any run has


def seed_of_step(seed: int, step: int) -> int:
    """Seed of all randomness in step `step` of a run with `seed`. It does not depend on interruptions of the run."""
    return seed * _STRIDE + step
