"""What the machine grants this process."""

from __future__ import annotations

import os


def num_processors() -> int:
    """How many processors this process may use: containers often grant fewer than the machine has."""
    # Only some systems can say so.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
