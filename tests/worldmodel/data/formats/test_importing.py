"""An import goes on where it was stopped, never into something else, and what is read is what is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.data import TrajectoryStore
from worldmodel.data.formats.actions import ActionOptions
from worldmodel.data.formats.importing import run_import
from worldmodel.data.formats.mapping import Choice
from worldmodel.data.formats.plan import ImportOptions, plan_import
from worldmodel.data.formats.source import Facts, Feature, FormatError, Length, Source
from worldmodel.data.store.reader import StoreError


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


class MadeUp(Source):
    """Episodes of given lengths; number `e` has pictures of brightness e."""

    def __init__(self, lengths: list[tuple[int, int]], **facts: Any) -> None:
        features = {
            "top": Feature("top", (8, 8, 3), "uint8", True),
            "action": Feature("action", (2,), "float64", False),
            "joints": Feature("joints", (1,), "float32", False),
        }
        super().__init__(Path("made-up"), Facts("made up", "toy", usual={"action": "action"}, **facts), features)
        self.all_lengths = [Length(*length) for length in lengths]
        self.lost_pictures = 0
        self.scale = 1.0

    def lengths(self, choice: Choice) -> list[Length]:
        return self.all_lengths

    def column(self, episode: int, name: str, rows: int) -> NDArray[Any]:
        width = 2 if name == "action" else 1
        return self.scale * (episode + np.arange(rows * width, dtype=np.float64).reshape(rows, width) / 16)

    def frames(self, episode: int, name: str, rows: int) -> Iterator[NDArray[Any]]:
        for _ in range(rows - self.lost_pictures):
            yield np.full((8, 8, 3), episode, np.uint8)

    def fingerprint(self) -> str:
        return "made up"


LENGTHS = [(5, 4), (4, 4), (3, 2), (9, 8)]


@pytest.fixture
def source() -> MadeUp:
    return MadeUp(LENGTHS, rate_hz=10.0)


@pytest.fixture
def _one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldmodel.data.formats.importing._COMMIT_BYTES", 1)


def bring(source: Source, out: Path, progress: Callable[[int, int], None] = quiet, **options: Any) -> TrajectoryStore:
    return run_import(source, plan_import(source, ImportOptions(**options), quiet), out, progress)


def digests(store: TrajectoryStore) -> list[bytes]:
    assert store.records is not None
    return [record["digests"].tobytes() for record in store.records]


def test_both_conventions_of_rows(tmp_path: Path, source: MadeUp) -> None:
    plan = plan_import(source, ImportOptions(), quiet)
    assert plan.episodes == ((0, 5), (1, 4), (2, 3), (3, 9))
    assert (plan.unused_actions, plan.num_rows, plan.num_steps) == (1, 21, 17)
    store = run_import(source, plan, tmp_path / "out.zarr", quiet)
    assert [store.episode(i).num_steps for i in range(4)] == [4, 3, 2, 8]
    assert store.episode(2).images["top"].max() == store.episode(2).images["top"].min() == 2


@pytest.mark.usefixtures("_one_by_one")
def test_an_interrupted_import_goes_on(tmp_path: Path, source: MadeUp) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise RuntimeError

    out = tmp_path / "out.zarr"
    with pytest.raises(RuntimeError):
        bring(source, out, stop)
    assert TrajectoryStore.open(out).num_episodes == 2
    seen: list[int] = []
    store = bring(source, out, lambda done, total: seen.append(done))
    assert seen == [3, 4]
    assert digests(store) == digests(bring(source, tmp_path / "unbroken.zarr"))
    again: list[int] = []
    bring(source, out, lambda done, total: again.append(done))
    assert again == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": [4]}, "was recorded with cameras .*8.*, this run has .*4"),
        ({"fit": "letterbox"}, "was recorded with fit crop, this run has letterbox"),
        ({"proprio": ["none"]}, r"was recorded with proprio \['joints'\], this run has \[\]"),
        ({"env": "arm"}, "was recorded with env toy, this run has arm"),
    ],
)
def test_another_import_is_refused(tmp_path: Path, source: MadeUp, options: dict[str, Any], message: str) -> None:
    bring(source, tmp_path / "out.zarr")
    with pytest.raises(UserError, match=message):
        bring(source, tmp_path / "out.zarr", **options)


def test_another_source_is_refused(tmp_path: Path, source: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    bring(source, tmp_path / "out.zarr")
    monkeypatch.setattr(source, "fingerprint", lambda: "another")
    with pytest.raises(UserError, match="was recorded with source made up, this run has another"):
        bring(source, tmp_path / "out.zarr")


def test_a_recording_of_something_else_is_refused(store: TrajectoryStore, source: MadeUp) -> None:
    with pytest.raises(UserError, match=r"data\.zarr holds a recording that came about otherwise"):
        bring(source, store.path)
    assert TrajectoryStore.open(store.path).num_episodes == 5


def test_a_store_with_other_rows_is_an_error(tmp_path: Path, source: MadeUp) -> None:
    bring(source, tmp_path / "out.zarr", control=ActionOptions([0.0], [9.0]))
    source.all_lengths[3] = Length(8, 7)  # without its fingerprint changing, as it would
    with pytest.raises(StoreError, match="has 4 episodes and 21 rows, made-up has 4 and 20"):
        bring(source, tmp_path / "out.zarr", control=ActionOptions([0.0], [9.0]))
    del source.all_lengths[2:]
    with pytest.raises(UserError, match="has 4 episodes already, more than the 2 to import"):
        bring(source, tmp_path / "out.zarr", control=ActionOptions([0.0], [9.0]))


def test_pictures_are_counted(tmp_path: Path, source: MadeUp) -> None:
    plan = plan_import(source, ImportOptions(), quiet)
    for lost, message in (
        (1, "top in episode 0 of made-up has 4 pictures: 5 were promised"),
        (-1, "more than 5 pictures"),
    ):
        source.lost_pictures = lost
        with pytest.raises(FormatError, match=message):
            run_import(source, plan, tmp_path / f"out{lost}.zarr", quiet)


def test_short_episodes(tmp_path: Path) -> None:
    source = MadeUp([(5, 4), (1, 0), (1, 1), (3, 2)], rate_hz=10.0)
    with pytest.raises(UserError, match=r"episode 1 of made-up has 1 observations, expected at least 2 .*--skip-short"):
        plan_import(source, ImportOptions(), quiet)
    plan = plan_import(source, ImportOptions(skip_short=True), quiet)
    assert plan.skipped == (1, 2)
    store = run_import(source, plan, tmp_path / "out.zarr", quiet)
    assert [store.episode(i).images["top"].max() for i in range(2)] == [0, 3]
    with pytest.raises(UserError, match="no episode of made-up has two observations"):
        plan_import(MadeUp([(1, 1)], rate_hz=10.0), ImportOptions(skip_short=True), quiet)


def test_bounds_of_actions(source: MadeUp) -> None:
    def bounds(source: Source, **options: Any) -> tuple[Any, Any]:
        plan = plan_import(source, ImportOptions(control=ActionOptions(**options)), quiet)
        return plan.spec.action.low, plan.spec.action.high

    # Episode 1 has as many actions as observations: its last one, 1.375 and 1.4375, does not count.
    assert bounds(source) == ((0.0, 0.0625), (3.875, 3.9375))
    assert bounds(MadeUp([(2, 2), (2, 2)], rate_hz=1.0)) == ((0.0, 0.0625), (1.0, 1.0625))
    assert bounds(source, low=[-5.0], high=[5.0, 6.0]) == ((-5.0, -5.0), (5.0, 6.0))
    said = MadeUp(LENGTHS, rate_hz=10.0, action_low=(-4.0, -4.0), action_high=(4.0, 4.0))
    assert bounds(said) == ((-4.0, -4.0), (4.0, 4.0))
    for options, message in (
        ({"low": [-5.0]}, "belong together"),
        ({"low": [1, 2, 3], "high": [9]}, "--action-low has 3 values: expected 1 or 2"),
        ({"low": [3.0], "high": [1.0]}, "the first may not be above the second"),
        ({"low": [-math.inf], "high": [5.0]}, r"low\[0\] of the action is -inf.*both finite"),
        ({"low": [0.0], "high": [1e39]}, r"high\[0\] 1e\+39.*both finite"),
        (
            {"low": [0.0], "high": [1.0]},
            r"action\[0\] of made-up goes from 0 to 3\.875, outside the bounds",
        ),
        ({"low": [math.nan], "high": [math.nan]}, "actions from"),
    ):
        with pytest.raises(UserError, match=message):
            bounds(source, **options)


def test_actions_outside_what_the_data_set_says_are_refused() -> None:
    said = MadeUp(LENGTHS, rate_hz=10.0, action_low=(-4.0, -4.0), action_high=(4.0, 3.9))
    with pytest.raises(
        FormatError, match=r"action\[1\] of made-up goes from 0\.0625 to 3\.9375, outside the bounds -4 to 3\.9 of"
    ):
        plan_import(said, ImportOptions(), quiet)
    plan_import(said, ImportOptions(control=ActionOptions([-4.0], [4.0])), quiet)
    # What float32 makes of 0.2 is a little more than that.
    exact = MadeUp(LENGTHS, rate_hz=10.0, action_low=(-0.2, -0.2), action_high=(0.2, 0.2))
    exact.column = lambda episode, name, rows: np.full((rows, 2), np.float32(0.2))  # type: ignore[method-assign]
    plan_import(exact, ImportOptions(proprio=["none"]), quiet)


def test_an_action_that_never_changes_is_told(source: MadeUp) -> None:
    assert plan_import(source, ImportOptions(), quiet).notes == ()
    source.scale = 0.0
    notes = plan_import(source, ImportOptions(), quiet).notes
    assert notes == tuple(f"action action_{i} never changes: it is 0 in all rows" for i in range(2))


def test_units_and_names(source: MadeUp) -> None:
    plan = plan_import(source, ImportOptions(env="arm", control=ActionOptions(units=["m/s"])), quiet)
    assert (plan.spec.env, plan.spec.action.units) == ("arm", ("m/s", "m/s"))
    assert plan_import(source, ImportOptions(), quiet).spec.action.units == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_hz": 0.0}, "--rate 0:"),
        ({"rate_hz": math.nan}, "--rate nan:"),
        ({"size": [0]}, "--size 0: expected 1 to 2048"),
        ({"size": [-1]}, "--size -1:"),
        ({"size": [2049]}, "--size 2049:"),
        ({"size": [50]}, "--size 50: .*expected multiples of 4, for example 48 or 52"),
        ({"rate_hz": 30.0}, r"--rate 30: made-up says 10 steps per second \(--rate is for data that do not say\)"),
    ],
)
def test_impossible_numbers_are_refused(source: MadeUp, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_import(source, ImportOptions(**options), quiet)


def test_what_float32_cannot_hold(source: MadeUp) -> None:
    source.scale = 1e300
    with pytest.raises(FormatError, match="action of episode 0 of made-up is too large for float32"):
        plan_import(source, ImportOptions(control=ActionOptions([0.0], [1.0])), quiet)


def test_an_episode_that_does_not_fit_into_memory() -> None:
    with pytest.raises(
        UserError, match=r"episode 0 of made-up takes 49\.2 GB at 128 x 128 pixels: choose a smaller --size"
    ):
        plan_import(MadeUp([(1_000_000, 999_999)], rate_hz=10.0), ImportOptions(size=[128]), quiet)
