"""The changed worlds differ from `push` as they say, and a robot in one records what it lives through."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning.changed_push import CHANGES, NAME, register_changed
from benchmarks.learning.retrain import PlansConfig, RecordConfig, read
from envs.protocol import GoalEnv
from envs.registry import describe, env_options, make_env
from planning.robot import RobotController
from tests.commands import assert_refused, type_in
from tests.planning.toy_model import save_model
from worldmodel.core import registry
from worldmodel.core.errors import UserError
from worldmodel.data import TrajectoryStore

RETRAIN = "benchmarks.learning.retrain"
# The block lies to the right of the pusher, which moves to the right.
START = np.array([-0.1, 0.0, 0.0, -0.18, 0.0] + [0.0] * 7)
PUSH, REST = np.array([0.4, 0.0], np.float32), np.zeros(2, np.float32)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    register_changed()
    yield
    del registry._registered["env"][NAME]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = env_options("push")
    env = make_env(options)
    env.close()
    return save_model(tmp_path_factory.mktemp("checkpoint"), describe(env, options))


def changed(change: str) -> GoalEnv:
    return make_env(env_options(NAME, change=change))


def pushed(change: str) -> np.ndarray:
    """States `[T+1, N]` of a push of 3 control steps and 4 of rest."""
    env = changed(change)
    env.reset(options={"state": START})
    states = [START] + [env.step(action)[4]["state"] for action in [PUSH] * 3 + [REST] * 4]
    env.close()
    return np.array(states)


def test_every_change_is_a_world_of_its_own_for_models_of_push() -> None:
    for change in CHANGES:
        env = changed(change)
        spec = describe(env, env_options(NAME, change=change))
        assert spec.env == "push" and spec.options["change"] == change
        env.close()


def test_each_change_is_what_it_says() -> None:
    plain = pushed("none")
    env = make_env(env_options("push"))
    env.reset(options={"state": START})
    assert (env.step(PUSH)[4]["state"] == plain[1]).all()
    env.close()
    slid = {change: (pushed(change)[-1] - pushed(change)[3])[0] for change in ("none", "slippery", "icy")}
    assert 1.5 * slid["none"] < slid["slippery"] < slid["icy"]
    slow = pushed("slow")
    assert slow[3, 3] - START[3] == pytest.approx((plain[3, 3] - START[3]) / 2, rel=0.1)
    assert pushed("mirrored")[3, 3] < START[3]


def test_a_long_block_is_turned_by_a_quarter_turn() -> None:
    env, turned = changed("long"), START.copy()
    turned[2] = np.pi / 2
    assert env.goal_errors(turned, START)["yaw"] == pytest.approx(90)
    turned[2] = np.pi
    assert env.is_success(turned, START)
    env.close()


def test_a_robot_records_what_it_lives_through(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To the untrained model, all goals look alike.
    monkeypatch.setattr(f"{RETRAIN}.RobotController", functools.partial(RobotController, reached_distance=1e-9))
    options = (f"checkpoint={checkpoint}", "change=slow", "goals=3", "budget=4", "seed=5", "out=lived.zarr")
    code, text, _ = type_in(tmp_path, RETRAIN, "record", *options)
    assert code == 0 and "3 goals, 12 control steps" in text
    store = TrajectoryStore.open(tmp_path / "lived.zarr")
    assert store.spec.env == "push" and store.spec.state_size == 0
    # Nobody sees what comes of the last action toward a goal.
    assert [store.episode(i).num_steps for i in range(3)] == [3, 3, 3]
    # The next goal begins where the last one ended.
    ends = [store.episode(i).proprio for i in range(3)]
    assert np.abs(ends[1][0] - ends[0][-1]).max() < 0.05


def test_evaluation_takes_place_in_the_changed_world(tmp_path: Path, checkpoint: Path) -> None:
    small = ["planner.options.samples=8", "planner.options.elites=2", "planner.options.iterations=1"]
    given = [f"checkpoint={checkpoint}", "manifest.seed=1", "manifest.n=2", "budget=2", "reality=0", "oracle=false"]
    hashes = []
    for change in ("none", "slow"):
        run = (f"change={change}", f"out={change}", "baselines=false", *given, *small)
        code, text, error = type_in(tmp_path, RETRAIN, "evaluate", *run)
        assert code == 0, error
        assert "next: python -m planning.run env=changed_push" in text
        hashes.append(json.loads((tmp_path / change / "results.json").read_text())["manifest_hash"])
    assert len(set(hashes)) == 2


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (("go",), "unknown command 'go'"),
        (("record", "goal=3"), "unknown option 'goal'"),
        (("record", "goals=many"), "option goals is 'many': expected a whole number"),
        (("record", "goals=0"), "at least 1, 1 and 0"),
        (("plans", "n=0"), "n=0 seed=1: at least 1"),
        (("evaluate", "change=wet"), "unknown change 'wet'"),
    ):
        assert_refused(type_in(tmp_path, RETRAIN, *arguments), message)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="at least 1"):
        RecordConfig(budget=0)
    assert read(RecordConfig, ["goals=3", "planner.horizon=8"]) == RecordConfig(goals=3, planner=("planner.horizon=8",))
    assert read(PlansConfig, ["n=3"]) == PlansConfig(n=3)
