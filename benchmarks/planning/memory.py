"""Resident memory of this process over time, and whether it grows."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Final

import numpy as np

# What is allocated once, such as caches and buffers of threads, is there after a tenth of a run.
WARM_UP: Final = 0.1


def memory_mib() -> float:
    """Resident memory of this process [MiB]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclasses.dataclass(frozen=True)
class Growth:
    """Memory of a run.

    Attributes:
        start: at its beginning [MiB].
        warm: after its first tenth [MiB].
        end: at its end [MiB].
        most: the most that was measured [MiB].
        slope: of a line through everything after the first tenth, by least squares [MiB/h].
    """

    start: float
    warm: float
    end: float
    most: float
    slope: float


def growth(hours: list[float], mib: list[float]) -> Growth:
    """Of memory `mib`, measured at `hours`. Both need an entry after the first tenth of the run, and one at its end."""
    at, used = np.array(hours), np.array(mib)
    is_warm = at >= at[0] + WARM_UP * (at[-1] - at[0])
    late, warm = at[is_warm] - at[is_warm].mean(), used[is_warm]
    slope = float(late @ warm / max(late @ late, np.finfo(float).tiny))
    return Growth(used[0], warm[0], used[-1], used.max(), slope)
