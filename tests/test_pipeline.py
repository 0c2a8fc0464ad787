"""The whole pipeline at toy size, by the commands that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worldmodel.commands import ROOT, TOY

ENV = ("env=push", "env.image_size=32")
PLANNER = (
    "planner.options.samples=16",
    "planner.options.iterations=2",
    "planner.options.elites=4",
    "planner.horizon=3",
)


def type_in(folder: Path, module: str, *overrides: str) -> str:
    """What `python -m <module> <overrides>` prints in `folder`; it must succeed and suggest a next command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.setdefault("MUJOCO_GL", "egl")
    done = subprocess.run(
        [sys.executable, "-m", module, *overrides],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{module}: {done.stdout}\n{done.stderr}"
    assert "next: python -m " in done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which recording, both trainings, one plan and an evaluation were made."""
    folder = tmp_path_factory.mktemp("pipeline")
    type_in(folder, "envs.collect", *ENV, "episodes=6", "episode_steps=16", "workers=1")
    type_in(folder, "worldmodel.pretrain", *ENV, *TOY["worldmodel.pretrain"], "device=cpu")
    type_in(folder, "worldmodel.train", *ENV, *TOY["worldmodel.train"], "device=cpu")
    type_in(folder, "envs.goal", *ENV, "seed=3", "out=goal.png")
    type_in(folder, "planning.run", *ENV, *PLANNER, "goal=goal.png", "budget=4", "out=plan", "device=cpu")
    evaluation = ("manifest.seed=1", "manifest.n=2", "budget=4", "videos=1", "batch=2", "out=evaluation", "device=cpu")
    type_in(folder, "planning.evaluate", *ENV, *PLANNER, *evaluation)
    return folder


def test_each_step_leaves_what_the_next_one_needs(runs: Path) -> None:
    assert (runs / "runs" / "push" / "data.zarr").is_dir()
    for name, kind in (("encoder", "encoder"), ("model", "world_model")):
        config = json.loads((runs / "runs" / "push" / name / "config.json").read_text())
        assert config["kind"] == kind
        assert config["environment"]["image_size"] == 32
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


def test_an_evaluation_leaves_a_table_with_floors_and_ceiling(runs: Path) -> None:
    results = json.loads((runs / "evaluation" / "results.json").read_text())
    assert (results["task"], results["n"], results["manifest_seed"]) == ("push", 2, 1)
    assert 0 <= results["success_final"] <= results["success_any"] <= 1
    assert len(results["episodes"]) == 2
    assert set(results["floors"]) == {"no_op", "random"}
    assert results["ceiling"]["n"] == 2
    assert results["plan_ms_median"] > 0
    assert results["checkpoint"]["source"] == "runs/push/model"


def test_a_model_for_another_image_size_is_refused_before_the_first_step(runs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "planning.run", "env=push", "env.image_size=64", "goal=goal.png", "device=cpu"],
        cwd=runs,
        env={"MUJOCO_GL": "egl", **os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert "image_size 32" in done.stderr and "image_size 64" in done.stderr
