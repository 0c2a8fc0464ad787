"""How sure a success rate is."""

from __future__ import annotations

import math


def wilson_interval(successes: int, n: int, z: float = 1.959963985) -> tuple[float, float]:
    """Interval for a rate of `successes` out of `n` (Wilson 1927); `z` 1.96 gives 95 %.

    `(p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`. Unlike the textbook `p ± z sqrt(p(1-p)/n)` it keeps
    its promise near 0 and 1. Without a trial everything is possible: (0, 1).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n}")
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    centre = rate + z * z / (2 * n)
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The formula gives exactly 0 and 1 at the ends but for rounding.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return low, high
