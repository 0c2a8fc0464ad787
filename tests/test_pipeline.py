"""The whole pipeline at toy size, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import assert_refused, type_in
from tests.worldmodel.commands import TOY_OPTIONS

ENV = ("env=push", "env.image_size=32")
PLANNER = (
    "planner.options.samples=16",
    "planner.options.iterations=2",
    "planner.options.elites=4",
    "planner.horizon=3",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which recording, both trainings, one plan and an evaluation were made."""
    folder = tmp_path_factory.mktemp("pipeline")
    evaluation = ("manifest.seed=1", "manifest.n=2", "budget=4", "videos=1", "reality=2", "batch=2", "out=evaluation")
    for module, *options in (
        ("envs.collect", "episodes=6", "episode_steps=16", "workers=1"),
        ("worldmodel.pretrain", *TOY_OPTIONS["worldmodel.pretrain"], "device=cpu"),
        ("worldmodel.train", *TOY_OPTIONS["worldmodel.train"], "device=cpu"),
        ("worldmodel.inverse", "trainer.steps=8", "trainer.batch_size=4", "head.width=16", "device=cpu"),
        ("envs.goal", "seed=3", "out=goal.png"),
        ("planning.run", *PLANNER, "goal=goal.png", "budget=4", "out=plan", "device=cpu"),
        ("planning.evaluate", *PLANNER, *evaluation, "device=cpu"),
    ):
        ended = type_in(folder, module, *ENV, *options)
        assert ended.code == 0, f"{module}: {ended}"
        assert "next: python -m " in ended.out
    return folder


def test_each_step_leaves_what_the_next_one_needs(runs: Path) -> None:
    assert (runs / "runs" / "push" / "data.zarr").is_dir()
    for name, kind in (("encoder", "encoder"), ("model", "world_model"), ("inverse", "inverse")):
        config = json.loads((runs / "runs" / "push" / name / "config.json").read_text())
        assert config["kind"] == kind
        assert kind == "inverse" or config["environment"]["cameras"][0]["height"] == 32
    assert (runs / "goal.png").read_bytes().startswith(b"\x89PNG")


def test_a_plan_leaves_its_video_picture_and_verdict(runs: Path) -> None:
    result = json.loads((runs / "plan" / "result.json").read_text())
    assert result["task"] == "push"
    assert result["steps"] <= 4
    assert len(result["plan_ms"]) == result["steps"]
    assert result["steps_without_plan"] == 0
    assert all(0 < distance < 1e3 for distance in result["latent_distance"])
    assert "reached" in result["verdict"]
    assert b"ftyp" in (runs / "plan" / "episode.mp4").read_bytes()[:16]
    assert (runs / "plan" / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_an_evaluation_leaves_a_table_with_baselines_and_oracle(runs: Path) -> None:
    results = json.loads((runs / "evaluation" / "results.json").read_text())
    assert (results["task"], results["n"], results["manifest_seed"]) == ("push", 2, 1)
    assert 0 <= results["success_final"] <= results["success_any"] <= 1
    assert len(results["episodes"]) == 2
    assert set(results["floors"]) == {"no_op", "random", "explorer"}
    assert results["ceiling"]["n"] == 2
    assert results["plan_ms_median"] > 0
    assert results["checkpoint"]["source"] == "runs/push/model"


def test_a_model_for_another_image_size_is_refused_before_the_first_step(runs: Path) -> None:
    ended = type_in(runs, "planning.run", "env=push", "env.image_size=64", "goal=goal.png", "device=cpu")
    assert_refused(ended, "cameras camera 32 x 32, but env push has cameras camera 64 x 64")
