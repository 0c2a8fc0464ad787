"""Rounds of planning and learning on: one on the real pushing environment with a toy model, and all their commands."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planning.evaluation.manifest import ManifestConfig
from planning.rounds import RoundsConfig, Work
from tests.commands import Ended, assert_refused
from worldmodel.core.errors import RunStopped
from worldmodel.data import TrajectoryStore
from worldmodel.data.__main__ import main as data_command

Command = Callable[..., Ended]
SEARCH = ["planner.options.samples=8", "planner.options.elites=2", "planner.options.iterations=1", "planner.horizon=4"]
OPTIONS = {"data": "d.zarr", "checkpoint": "first", "rounds": 2, "episodes": 5, "copies": 2, "steps": 7, "seed": 4}


def work(**changes: Any) -> Work:
    """The rounds of `OPTIONS`, in the current folder."""
    options = RoundsConfig(
        **{**OPTIONS, "learning_rate": 0.01, "heads": False, "budget": 9, "device": "cpu", "out": None}
    )
    given = {"env": ["env=push"], "planner": ["planner=icem"], "memory": None, "sizes": ["state.keypoints=3"]}
    return Work(options, ManifestConfig(1000, 6, 8), folder=Path("out"), **{**given, **changes})


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, dict[str, str], list[str]]]:
    """Round, module, options by name, and other arguments of every command, which is not run."""
    run: list[tuple[int, str, dict[str, str], list[str]]] = []

    def note(self: Work, number: int, module: str, *options: str) -> None:
        named = dict(option.split("=", 1) for option in options if "=" in option)
        run.append((number, module, named, [option for option in options if "=" not in option]))

    monkeypatch.setattr(Work, "_run", note)
    return run


@pytest.mark.slow  # its parts are tested one by one
def test_one_round_brings_a_model_and_its_evaluation(
    call: Command, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_this_process(self: Work, number: int, module: str, *options: str) -> None:
        if module == "worldmodel.data":
            assert data_command(list(options)) == 0
            return
        few = ["reality=2"] if module == "planning.evaluate" else []
        ended = call(module, *options, *few)
        assert ended.code == 0, (number, module, ended)

    monkeypatch.setattr(Work, "_run", in_this_process)
    assert call("envs.collect", "env=push", "episodes=8", "workers=1", "out=d.zarr").code == 0
    small = ["data=d.zarr", "rounds=1", "episodes=3", "steps=3", "budget=20", "manifest.n=2", "device=cpu", *SEARCH]
    ended = call("planning.rounds", f"checkpoint={checkpoint}", *small)
    assert ended.code == 0, ended
    folder = Path("runs/push/rounds")
    assert TrajectoryStore.open(folder / "1/data.zarr").num_episodes == 8 + 2 * 3
    assert (folder / "1/model/config.json").is_file() and not (folder / "1/frames.npy").exists()
    found = json.loads((folder / "results.json").read_text())
    assert [row["round"] for row in found["rounds"]] == [0, 1] and found["task"] == "push"
    assert found["rounds"][0]["checkpoint"]["sha256"] != found["rounds"][1]["checkpoint"]["sha256"]
    rows = [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 3 and rows[-1].startswith("| 1 | ") and " to " in rows[-1]
    before = (folder / "1/model/model.safetensors").stat().st_mtime_ns
    assert call("planning.rounds", f"checkpoint={checkpoint}", *small).code == 0, "all is there already"
    assert (folder / "1/model/model.safetensors").stat().st_mtime_ns == before


def test_every_round_learns_from_all_own_plans_so_far(commands: list[Any]) -> None:
    rounds = work()
    assert rounds.learn(1, "first") == "out/1/model" and rounds.learn(2, "out/1/model") == "out/2/model"
    assert [module for _, module, *_ in commands[:3]] == ["planning.practise", "worldmodel.data", "worldmodel.train"]
    practise, merge, train = commands[3:]
    assert practise[2]["checkpoint"] == "out/1/model" and practise[2]["planner"] == "icem"
    assert (practise[2]["seed"], practise[2]["steps_ahead"], practise[2]["episodes"]) == ("6", "8", "5")
    own = ["out/1/practice.zarr", "out/2/practice.zarr"]
    assert merge[3] == ["merge", "d.zarr", *own, *own, "out/2/data.zarr"]
    assert train[2]["init_from"] == "out/1/model" and train[2]["data"] == "out/2/data.zarr"
    assert (train[2]["trainer.steps"], train[2]["trainer.learning_rate"]) == ("7", "0.01")
    assert train[2]["state.keypoints"] == "3" and "planner" not in train[2], "which is no option of a training"


def test_every_model_has_a_memory_of_its_own(commands: list[Any]) -> None:
    rounds = work(memory="mine", planner=["planner.proposals.memory=mine"])
    rounds.learn(1, "first")
    rounds.evaluate(1, "out/1/model")
    practise, _, _, remember, evaluate = commands
    assert practise[2]["planner.proposals.memory"] == "mine"
    assert remember[1] == "planning.remember" and remember[2]["checkpoint"] == "out/1/model"
    assert remember[2]["out"] == evaluate[2]["planner.proposals.memory"] == "out/1/memory"


def test_every_model_has_a_head_of_its_own_where_asked(commands: list[Any]) -> None:
    rounds = work()
    rounds = dataclasses.replace(rounds, options=dataclasses.replace(rounds.options, heads=True))
    rounds.learn(1, "first")
    rounds.evaluate(1, "out/1/model")
    practise, _, train, head, evaluate = commands
    assert "planner.proposals.inverse" not in practise[2], "the first model has its own"
    assert head[1] == "worldmodel.inverse" and head[2]["checkpoint"] == train[2]["out"] == "out/1/model"
    assert (head[2]["data"], head[2]["cache"]) == ("out/1/data.zarr", "out/1/frames.npy")
    assert head[2]["out"] == evaluate[2]["planner.proposals.inverse"] == "out/1/inverse"


def test_the_first_models_head_is_not_used(call: Command, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later models have none, and the rounds would be compared with it."""
    found: list[list[str]] = []
    monkeypatch.setattr(Work, "evaluate", lambda self, number, model: found.append(list(self.planner)) or 1 / 0)
    for planner in (["planner=guided"], ["planner=cem"], ["planner.horizon=5"], ["heads=true", "planner.horizon=5"]):
        with pytest.raises(ZeroDivisionError):
            call("planning.rounds", f"data={recording}", *planner)
    assert found == [
        ["planner=two_spreads", "planner.proposals.inverse=null"],
        ["planner=cem"],
        ["planner=two_spreads", "planner.horizon=5", "planner.proposals.inverse=null"],
        ["planner=guided", "planner.horizon=5"],
    ]


def test_all_models_are_evaluated_on_the_same_pairs(commands: list[Any]) -> None:
    for number in (0, 1):
        assert work().evaluate(number, f"model {number}") == Path(f"out/{number}/evaluation")
    pairs = [{name: value for name, value in c[2].items() if name.startswith("manifest")} for c in commands]
    assert pairs[0] == pairs[1] == {"manifest.seed": "1000", "manifest.n": "6", "manifest.steps_ahead": "8"}


@pytest.mark.parametrize(("code", "error"), [(0, None), (1, RunStopped), (2, RunStopped), (130, KeyboardInterrupt)])
def test_the_end_of_a_command_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[BaseException] | None
) -> None:
    (tmp_path / "quits.py").write_text(f"raise SystemExit({code})")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["rounds.py"])
    if error is None:
        work()._run(1, "quits", "an=option")
    else:
        with pytest.raises(error, match=None if code == 130 else f"round 1: .* exit code {code}.*quits an=option"):
            work()._run(1, "quits", "an=option")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("rounds=0", "rounds=0 episodes=400 copies=2 steps=8000"),
        ("learning_rate=0", "learning_rate=0: above 0 and below 1 is accepted"),
        ("planner=auto", "planner=auto: later rounds have models of their own"),
        ("heads=true planner=cem", "heads=true with a planner without proposals"),
        ("data=none.zarr", "none.zarr"),
        ("checkpoint=none", "unknown checkpoint 'none'"),
    ],
)
def test_what_cannot_be_used(call: Command, recording: Path, option: str, message: str) -> None:
    data = [] if option.startswith("data") else [f"data={recording}"]
    assert_refused(call("planning.rounds", *data, *option.split()), message)
    assert not Path("runs/push/rounds").exists()
