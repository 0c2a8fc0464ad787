"""What the tests of all formats share: a recording to write in each of them, and a shorter way to import."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from worldmodel.data import TrajectoryStore
from worldmodel.data.formats.importing import run_import
from worldmodel.data.formats.plan import ImportOptions, plan_import
from worldmodel.data.formats.registry import open_source
from worldmodel.data.store.verification import verify

STEPS = (6, 3, 9)


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One episode as a robot leaves it: T actions, T + 1 observations.

    Attributes:
        pixels: uint8 `[T+1, 12, 16, 3]`.
        action: float64 `[T, 2]`, in numbers that float32 holds exactly.
        proprio: float32 `[T+1, 3]`.
        state: float64 `[T+1, 4]`.
    """

    pixels: NDArray[np.uint8]
    action: NDArray[np.float64]
    proprio: NDArray[np.float32]
    state: NDArray[np.float64]


def _record(index: int, steps: int) -> Recorded:
    rng = np.random.default_rng(index)
    return Recorded(
        rng.integers(0, 256, (steps + 1, 12, 16, 3), dtype=np.uint8),
        rng.integers(-8, 9, (steps, 2)) / 8,
        rng.standard_normal((steps + 1, 3)).astype(np.float32),
        rng.standard_normal((steps + 1, 4)),
    )


@pytest.fixture(scope="session")
def recorded() -> list[Recorded]:
    """Three episodes of 6, 3 and 9 actions."""
    return [_record(index, steps) for index, steps in enumerate(STEPS)]


@pytest.fixture(scope="session")
def import_from() -> Callable[..., TrajectoryStore]:
    """`import_from(format_name, source, out, fill_missing=False, **options)`: the store, verified."""

    def run(format_name: str, path: Path, out: Path, fill_missing: bool = False, **options: object) -> TrajectoryStore:
        rate = options.get("rate_hz")
        assert rate is None or isinstance(rate, float)
        with open_source(format_name, path, fill_missing, rate) as source:
            plan = plan_import(source, ImportOptions(**options), quiet)  # type: ignore[arg-type]
            store = run_import(source, plan, out, quiet)
        assert verify(store, quiet) == []
        return store

    return run


@pytest.fixture(scope="session")
def assert_holds() -> Callable[..., None]:
    """`assert_holds(store, recorded, fewer)`: the middle of the pictures, numbers but for the last `fewer` actions."""

    def check(store: TrajectoryStore, episodes: list[Recorded], fewer: int = 0) -> None:
        assert store.num_episodes == len(episodes)
        for index, wanted in enumerate(episodes):
            found, steps = store.episode(index), len(wanted.action) - fewer
            assert found.num_steps == steps
            (pixels,) = found.images.values()
            np.testing.assert_array_equal(pixels, wanted.pixels[: steps + 1, :, 2:14])
            np.testing.assert_array_equal(found.action[:-1], wanted.action[:steps])
            assert not found.action[-1].any()
            if store.spec.proprio_size:
                np.testing.assert_array_equal(found.proprio, wanted.proprio[: steps + 1])
            if store.spec.state_size:
                np.testing.assert_array_equal(found.state, wanted.state[: steps + 1])

    return check
