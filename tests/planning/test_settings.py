"""Options of the planner without Hydra are those of the commands."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from planning.choice import settings_for
from planning.planner import Planner
from planning.settings import read_settings
from tests.worldmodel.toy import make_model
from worldmodel.cli.command import as_plain, composed


def of_commands(*options: str) -> dict[str, Any]:
    return dict(as_plain(composed("evaluate", list(options)))["planner"])


@pytest.mark.parametrize("env", ["push", "reacher", "arm_push", "arm_drawer", "robot"])
@pytest.mark.parametrize("planner", [None, "icem", "auto"])
def test_an_environment_has_the_planner_and_the_objective_of_the_commands(
    tmp_path: Path, env: str, planner: str | None
) -> None:
    chosen = [] if planner is None else [f"planner={planner}"]
    named = ["env.name=arm"] if env == "robot" else []
    expected = of_commands(f"env={env}", *named, *chosen)
    assert settings_for(read_settings(chosen, env), tmp_path) == settings_for(expected, tmp_path)


def test_an_option_counts_more_than_the_environment() -> None:
    settings = read_settings(["planner.objective.mean_weight=0.5", "planner.options.narrow_share=0.1"], "arm_push")
    assert settings["objective"]["mean_weight"] == 0.5 and settings["options"]["narrow_share"] == 0.1
    assert settings == of_commands(
        "env=arm_push", "planner.objective.mean_weight=0.5", "planner.options.narrow_share=0.1"
    )


def test_a_robot_of_another_name_has_the_defaults() -> None:
    assert read_settings([], "kitchen") == read_settings([]) == of_commands("env=robot", "env.name=kitchen")


def test_a_model_brings_the_name_of_its_environment() -> None:
    model = make_model()
    assert Planner(model)._strategy.objective.steps == "mix"
    model.spec = dataclasses.replace(model.spec, env="reacher")
    assert Planner(model)._strategy.objective.steps == "mean"
