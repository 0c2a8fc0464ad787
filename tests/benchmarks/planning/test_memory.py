"""Growth of memory is that of the warm part of a run."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.planning.memory import growth, memory_mib


def test_what_is_allocated_at_the_beginning_is_no_growth() -> None:
    hours = np.linspace(0, 2, 101)
    found = growth(hours.tolist(), np.where(hours < 0.15, 100 + 500 * hours, 300.0).tolist())
    assert (found.start, found.warm, found.end, found.most) == (100, 300, 300, 300)
    assert found.slope == pytest.approx(0, abs=1e-9)


def test_a_leak_is_found() -> None:
    hours = np.linspace(1, 2, 51)
    found = growth(hours.tolist(), (200 + 30 * hours).tolist())
    assert found.slope == pytest.approx(30) and found.end == found.most == 260


def test_memory_that_is_held_counts() -> None:
    before = memory_mib()
    held = np.ones(2**28, np.uint8)  # 256 MiB, written to, which is more than the process has free already
    assert 200 < memory_mib() - before < 320
    del held
