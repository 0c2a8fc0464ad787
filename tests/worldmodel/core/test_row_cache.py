"""Rows that are kept in a file. What a kill and damage do to it is tested with features of frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from worldmodel.core import row_cache
from worldmodel.core.row_cache import cached_rows

SHAPE = (23, 2, 3)
ROWS = np.random.default_rng(0).normal(size=SHAPE)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "_BLOCK", 4)


def kept(
    path: Path, key: int = 0, compute: Callable[[int, int], NDArray[np.float64]] = lambda a, b: ROWS[a:b]
) -> tuple[NDArray[np.float32], list[int]]:
    """The rows, and the first row of every block that was computed."""
    asked: list[int] = []

    def compute_block(start: int, stop: int) -> NDArray[np.float64]:
        asked.append(start)
        return compute(start, stop)

    rows = cached_rows(path, {"key": key}, SHAPE, np.float32, compute_block, lambda done, total: None)
    return rows, asked


def test_rows_are_computed_once_in_blocks(tmp_path: Path) -> None:
    rows, asked = kept(tmp_path / "rows.npy")
    assert asked == [0, 4, 8, 12, 16, 20] and rows.dtype == np.float32
    np.testing.assert_array_equal(rows, ROWS.astype(np.float32))
    again, asked = kept(tmp_path / "rows.npy")
    assert asked == []
    np.testing.assert_array_equal(again, rows)


@pytest.mark.parametrize("block", [0, 1, 5])
def test_ctrl_c_loses_no_block(tmp_path: Path, block: int) -> None:
    def interrupted(start: int, stop: int) -> NDArray[np.float64]:
        if start == 4 * block:
            raise KeyboardInterrupt
        return ROWS[start:stop]

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "rows.npy", compute=interrupted)
    rows, asked = kept(tmp_path / "rows.npy")
    assert asked == [4 * number for number in range(block, 6)]
    np.testing.assert_array_equal(rows, ROWS.astype(np.float32))


def test_another_key_shape_or_type_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    kept(path)
    assert len(kept(path, key=1)[1]) == 6
    shorter = cached_rows(path, {"key": 1}, (5, 2, 3), np.float32, lambda a, b: ROWS[a:b], lambda done, total: None)
    np.testing.assert_array_equal(shorter, ROWS[:5].astype(np.float32))
    exact = cached_rows(path, {"key": 1}, (5, 2, 3), np.float64, lambda a, b: ROWS[a:b], lambda done, total: None)
    np.testing.assert_array_equal(exact, ROWS[:5])
