from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from worldmodel.core import configs
from worldmodel.core.configs import CONFIGS, choice_for, group_choices, read_choice, usual_objective, usual_planner
from worldmodel.core.errors import UserError


def test_values_are_those_of_the_file() -> None:
    assert read_choice("planner", "cem")["options"]["samples"] == 192
    assert "cem" in group_choices("planner")


def test_who_changes_them_changes_their_own() -> None:
    """What one controller changed was once seen by the next one."""
    read_choice("planner", "cem")["options"]["samples"] = 3
    assert read_choice("planner", "cem")["options"]["samples"] == 192


def test_what_refers_to_others_is_left_out() -> None:
    assert "name" not in read_choice("env", "dm_control") and read_choice("env", "dm_control")["domain"] == "cartpole"


def test_an_unknown_choice_lists_the_others() -> None:
    with pytest.raises(UserError, match=r"unknown planner 'cim': choose from adam, .*did you mean cem"):
        read_choice("planner", "cim")


def test_an_environment_s_planner_comes_before_its_family_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual_planner("arm_push") == usual_planner("arm_drawer") == "guided"
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs" / "planner_for" / "arm_push.yaml").write_text("planner: mppi\n")
    monkeypatch.setattr(configs, "CONFIGS", tmp_path / "configs")
    assert [usual_planner(env) for env in ("arm_push", "arm_drawer")] == ["mppi", "guided"]
    assert usual_planner("reacher") is None and usual_planner("my_robot") is None


def test_what_has_no_file_of_its_own_takes_its_family_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    task = (CONFIGS / "env" / "arm_push.yaml").read_text().replace("arm_push", "tidy")
    (tmp_path / "configs" / "env" / "tidy.yaml").write_text(task)
    monkeypatch.setattr(configs, "CONFIGS", tmp_path / "configs")
    assert choice_for("collect_for", "tidy") == choice_for("objective_for", "tidy") == "arm"
    assert choice_for("family_for", "tidy", "keypoint_") == "keypoint_arm"
    assert choice_for("family_for", "arm_drawer", "keypoint_") == "keypoint_arm_drawer"
    assert choice_for("family_for", "tidy", "tokens_") is None and choice_for("collect_for", "push") is None


def test_another_body_s_settings_are_those_of_the_task() -> None:
    assert usual_planner("arm_push_jaco") == "guided" and usual_objective("arm_drawer_jaco") == {"mean_weight": 0.25}
    assert choice_for("collect_for", "arm_drawer_jaco") == "arm_drawer"
    assert usual_objective("arm") == {} and usual_planner("push_cart") is None, "of a robot"
