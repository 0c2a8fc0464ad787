from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from planning.evaluation import manifest as module
from planning.evaluation.manifest import Manifest, ManifestConfig, draw, load_or_draw, read_manifest
from tests.planning.point_mass import PointEnv
from worldmodel.core.errors import UserError


def make(seed: int = 0, n: int = 5, **options: int) -> Manifest:
    return draw(PointEnv(), "sim 1.0", {"colour": "red"}, seed, n, **options)


def test_a_manifest_survives_the_disk_to_the_last_bit(tmp_path: Path) -> None:
    manifest = make()
    manifest.write(tmp_path / "point.json")
    assert read_manifest(tmp_path / "point.json") == manifest
    assert read_manifest(tmp_path / "point.json").sha256 == manifest.sha256


def test_draws_depend_on_the_seed_alone() -> None:
    assert make(seed=3) == make(seed=3)
    assert make(seed=3).sha256 != make(seed=4).sha256
    assert make(n=5).pairs[:3] == make(n=3).pairs


def test_pairs_are_interesting_and_the_stated_steps_apart() -> None:
    env = PointEnv()
    for pair in make(n=20, steps_ahead=10).pairs:
        start, goal = np.array(pair.start), np.array(pair.goal)
        assert env.is_interesting(start, goal)
        assert (np.abs(goal - start) <= 10 * 0.1 + 1e-9).all()


class SidedEnv(PointEnv):
    """Tells goals to the left of the start from those to its right."""

    goal_kinds = ("left", "right")

    def goal_kind(self, start: np.ndarray, goal: np.ndarray) -> str:
        return "left" if goal[0] < start[0] else "right"


def test_kinds_of_goals_take_turns() -> None:
    pairs = draw(SidedEnv(), "sim 1.0", {}, 0, 7).pairs
    assert ["left" if pair.goal[0] < pair.start[0] else "right" for pair in pairs] == ["left", "right"] * 3 + ["left"]
    assert len({pair.seed for pair in pairs}) == 7


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"a": False, "b": 3, "vary": {"light": False}}, "arm.json"),
        (
            {"distractors": True, "vary": {"light": True, "mass": True, "camera": False}},
            "arm_distractors_light_mass.json",
        ),
        ({"vary": {"colours": [0.45, 0.25], "mass": False}, "action": {"low": [0, 1]}}, "arm_colours.json"),
    ],
)
def test_every_set_of_options_has_its_own_manifest(options: dict[str, object], name: str) -> None:
    assert module.frozen_path("arm", options).name == name


def test_seeds_never_meet_those_of_data_collection() -> None:
    ours = {np.random.SeedSequence([0, i, module._NAMESPACE]).generate_state(4).tobytes() for i in range(200)}
    collected = {np.random.SeedSequence([0, i]).generate_state(4).tobytes() for i in range(200)}
    assert not ours & collected


def test_tasks_that_nobody_can_draw_are_an_error_and_not_an_endless_loop() -> None:
    with pytest.raises(UserError, match="0 of 200 episodes"):
        draw(PointEnv(diverge_at=-np.inf), "sim 1.0", {}, 0, 2)


@pytest.mark.parametrize("change", ["pairs", "simulator", "steps_ahead"])
def test_a_changed_manifest_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "point.json"
    make().write(path)
    content = json.loads(path.read_text())
    if change == "pairs":
        content["pairs"][2]["goal"][0] += 1e-12
    else:
        content[change] = 26
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="was changed"):
        read_manifest(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": "a", "pairs": [{}]}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "point.json").write_text(text)
    with pytest.raises(UserError, match="is not a manifest"):
        read_manifest(tmp_path / "point.json")
    with pytest.raises(UserError, match="there is no manifest"):
        read_manifest(tmp_path / "none.json")


def test_frozen_unless_a_seed_asks_for_fresh_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "frozen_path", lambda env, options: tmp_path / f"{env}.json")
    env, frozen = PointEnv(), make(seed=9)
    with pytest.raises(UserError, match="no frozen manifest"):
        load_or_draw(env, "sim 1.0", {}, ManifestConfig(n=3))
    frozen.write(tmp_path / "point.json")
    assert load_or_draw(env, "sim 1.0", {}, ManifestConfig(n=3)).pairs == frozen.pairs[:3]
    assert load_or_draw(env, "sim 1.0", {}, ManifestConfig(seed=2, n=3)).pairs == make(seed=2, n=3).pairs
    with pytest.raises(UserError, match=r"manifest\.n=6"):
        load_or_draw(env, "sim 1.0", {}, ManifestConfig(n=6))


SHIPPED = sorted(module.frozen_path("push", {}).parent.glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_manifests_are_whole(path: Path) -> None:
    manifest = read_manifest(path)
    assert module.frozen_path(manifest.env, manifest.options) == path
    assert len(manifest.pairs) == 100 and manifest.steps_ahead == 25


def test_every_task_has_pairs_with_and_without_distractors() -> None:
    tasks = ("push", "arm_push", "arm_pick_place", "arm_drawer")
    assert {path.stem for path in SHIPPED} >= {"reacher", *tasks, *(f"{task}_distractors" for task in tasks)}


def test_how_many_pairs_there_are_is_told() -> None:
    told: list[tuple[int, int]] = []
    draw(PointEnv(), "sim 1.0", {}, 3, 4, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4) and [done for done, _ in told] == sorted(done for done, _ in told)


def test_what_is_switched_on_has_a_manifest_of_its_own() -> None:
    assert module.frozen_path("push", {"distractors": True, "size": 1}).name == "push_distractors.json"
    assert module.frozen_path("push", {"distractors": False}).name == "push.json"
