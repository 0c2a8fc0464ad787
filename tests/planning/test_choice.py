"""`planner=auto`: what the checkpoint says, what is used without a word of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planning.choice import FILE, settings_for, write_choice
from planning.loading import chosen_planner
from planning.registry import OPTIMISERS, make_strategy
from planning.settings import read_settings
from tests.worldmodel.toy import make_model
from worldmodel.cli.command import as_plain, composed
from worldmodel.core.errors import UserError

AUTO = {"name": "auto"}
WITH_PROPOSALS = (
    '{"planner": {"name": "cem", "horizon": 1, "execute": 1, "options": {}, "objective": {}, "proposals": %s}}'
)


def test_what_was_judged_best_is_taken(tmp_path: Path) -> None:
    judged = read_settings({"planner": "mppi", "options.samples": 24, "horizon": 8, "proposals.memory": "here"})
    path = write_choice(tmp_path, judged, {"n": 40, "success_any": 0.9})
    assert json.loads(path.read_text())["judged"] == {"n": 40, "success_any": 0.9}
    found = settings_for(AUTO, tmp_path)
    strategy = make_strategy(found, 0)
    assert found["name"] == "mppi" and strategy.optimiser.samples == 24 and strategy.controller.horizon == 8
    assert strategy.proposals.memory is None  # a folder of another machine


def test_every_planner_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Also one with an option that is infinite, which JSON cannot say."""
    for name in OPTIMISERS.names():
        judged = read_settings({"planner": name})
        write_choice(tmp_path, judged, {})
        assert settings_for(AUTO, tmp_path) == {key: judged[key] for key in judged if key != "proposals"}


def test_the_head_of_the_checkpoint_is_part_of_the_choice(tmp_path: Path) -> None:
    judged = read_settings({"planner": "guided", "proposals.memory": "here"})
    write_choice(tmp_path, judged, {})
    proposals = make_strategy(settings_for(AUTO, tmp_path), 0).proposals
    assert (proposals.inverse, proposals.memory) == ("auto", None)


def test_another_planner_is_used_as_it_is(tmp_path: Path) -> None:
    write_choice(tmp_path, read_settings({"planner": "mppi"}), {})
    wanted = read_settings({"planner": "icem"})
    assert settings_for(wanted, tmp_path) == wanted
    assert chosen_planner(wanted, "nowhere", "push") == wanted  # no checkpoint is looked for


def test_without_a_choice_it_is_what_the_environment_uses_otherwise(tmp_path: Path) -> None:
    for env in ("push", "reacher", "arm_push"):
        auto = as_plain(composed("run", [f"env={env}", "planner=auto"]))["planner"]
        usual = as_plain(composed("run", [f"env={env}"]))["planner"]
        assert settings_for(auto, tmp_path) == usual


def test_the_checkpoint_is_the_one_that_is_used(tmp_path: Path) -> None:
    make_model().save(tmp_path, {})
    write_choice(tmp_path, read_settings({"planner": "adam"}), {})
    assert chosen_planner(AUTO, str(tmp_path), "toy")["name"] == "adam"
    assert chosen_planner(AUTO, None, "push")["name"] == "cem"  # the shipped one says nothing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "planner.json"),
        ("[]", "does not describe a planner: expected name, horizon, execute, options, objective"),
        ('{"planner": {"name": "cem"}}', "does not describe a planner"),
        (WITH_PROPOSALS % '{"memory": "/elsewhere"}', "as proposals: expected inverse=auto and no memory"),
        (WITH_PROPOSALS % '{"inverse": "auto", "memory": "/elsewhere"}', "as proposals: expected inverse=auto"),
        (WITH_PROPOSALS % "3", "names 3 as proposals"),
    ],
)
def test_a_file_that_describes_no_planner_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        settings_for(AUTO, tmp_path)
    assert "\n" not in str(refused.value)


def test_options_in_the_file_are_checked_as_any_others(tmp_path: Path) -> None:
    planner = read_settings({"planner": "cem"})
    planner["options"]["samples"] = 10**9
    write_choice(tmp_path, planner, {})
    with pytest.raises(UserError, match="samples 1000000000"):
        make_strategy(settings_for(AUTO, tmp_path), 0)
    write_choice(tmp_path, {**planner, "name": "auto"}, {})
    with pytest.raises(UserError, match="does not describe a planner"):
        settings_for(AUTO, tmp_path)


def test_without_a_checkpoint_there_is_nothing_to_take() -> None:
    with pytest.raises(UserError, match="planner=auto needs a checkpoint"):
        make_strategy(AUTO, 0)
