"""The command that makes thresholds, and the run that uses them, on the real pushing environment with a toy model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.planning import monitor
from envs.push import PushEnv
from planning.alarms import Check
from planning.calibration import read_calibration
from tests.commands import Ended, assert_refused
from worldmodel.core.checkpoint import weights_hash
from worldmodel.models.decoder.decoder import code_size
from worldmodel.models.inverse.inverse import save_inverse
from worldmodel.models.inverse.network import InverseConfig, InverseNetwork
from worldmodel.models.registry import load_model

Command = Callable[..., Ended]
SMALL = ["planner.options.samples=8", "planner.options.elites=2", "planner.options.iterations=1", "planner.horizon=3"]
RUNS = ["manifest.n=8", "manifest.steps_ahead=5", "budget=3", "batch=4", "alpha=0.3", "compile=false", *SMALL]


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state after the first counts as success, since a toy model reaches nothing."""
    monkeypatch.setattr(PushEnv, "is_success", lambda self, states, goal, scale=1.0: np.asarray(states)[..., 5] != 0)


def test_thresholds_are_calibrated_and_used(call: Command, checkpoint: Path, goal: Path, reached: None) -> None:
    ended = call("planning.calibrate", f"checkpoint={checkpoint}", *RUNS)
    assert ended.code == 0, ended
    path = Path("runs/push/monitor.json")
    found = read_calibration(path)
    assert found.checks == ("surprise", "drift", "motion", "stillness", "stall")
    assert found.runs >= 5 and found.budget == 3
    assert "runs reached their goal, and are calibrated on" in ended.out
    assert "next: python -m planning.run env=push" in ended.out and f"monitor={path}" in ended.out
    again = call("planning.calibrate", f"checkpoint={checkpoint}", *RUNS, "out=again.json")
    assert again.code == 0 and read_calibration(Path("again.json")) == found, "from the log, without another run"

    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "limit": -1e6}))  # now everything is an alarm
    common = [f"goal={goal}", f"checkpoint={checkpoint}", f"monitor={path}", "budget=3", "compile=false", *SMALL]
    for on_alarm, steps in (("stop", 0), ("slow", 3), ("go_on", 3)):
        ended = call("planning.run", *common, f"on_alarm={on_alarm}", f"out={on_alarm}", "reached_distance=1e-6")
        assert ended.code == 0 and "alarm: " in ended.out, ended
        result = json.loads(Path(on_alarm, "result.json").read_text())
        assert result["steps"] == steps and result["alarm"]["check"] in list(Check), result


def test_another_planner_needs_other_thresholds(call: Command, checkpoint: Path, goal: Path, reached: None) -> None:
    assert call("planning.calibrate", f"checkpoint={checkpoint}", *RUNS).code == 0
    common = [f"goal={goal}", f"checkpoint={checkpoint}", "monitor=runs/push/monitor.json", "budget=2", "out=here"]
    assert_refused(call("planning.run", *common), "was made for the planner's options")
    assert not Path("here").exists()


def test_another_head_needs_other_thresholds(
    call: Command, checkpoint: Path, goal: Path, reached: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(checkpoint), torch.device("cpu"))
    head = InverseNetwork(InverseConfig(3, 8, 1), code_size(model), model.spec.action.size)
    save_inverse(head, Path("runs/push/inverse"), weights_hash(model), {})
    assert call("planning.calibrate", f"checkpoint={checkpoint}", *RUNS).code == 0

    class Accepted(Exception):
        """The benchmark goes on to its runs."""

    def accepted(*arguments: Any) -> None:
        raise Accepted

    monkeypatch.setattr(monitor, "draw", accepted)
    with pytest.raises(Accepted):
        monitor.measure(*monitor.read([f"checkpoint={checkpoint}", *SMALL]))
    common = [f"goal={goal}", f"checkpoint={checkpoint}", "monitor=runs/push/monitor.json", "budget=1", *SMALL]
    assert call("planning.run", *common, "out=with").code == 0
    shutil.rmtree("runs/push/inverse")
    assert_refused(call("planning.run", *common, "out=without"), "was made for the planner's options")


@pytest.mark.parametrize(
    ("module", "option", "message"),
    [
        ("planning.calibrate", "alpha=0", "alpha=0 window=2: 0.001 to 0.5 and 1 to 1000 are accepted"),
        ("planning.calibrate", "window=0", "alpha=0.05 window=0: 0.001 to 0.5 and 1 to 1000 are accepted"),
        ("planning.calibrate", "batch=0", "batch=0 seed=0: at least 1, 1 and 0 are accepted"),
        ("planning.calibrate", "manifest.n=5", "manifest.n=5: alpha=0.05 needs at least 28 successful runs"),
        ("planning.run", "on_alarm=run", "unknown on_alarm 'run': choose from go_on, slow, stop"),
        ("planning.run", "monitor=none.json", "there is no none.json: `python -m planning.calibrate`"),
    ],
)
def test_what_cannot_be_used_is_refused(
    call: Command, checkpoint: Path, module: str, option: str, message: str
) -> None:
    assert_refused(call(module, f"checkpoint={checkpoint}", option), message)
    assert not Path("runs").exists()


def test_too_few_successes_are_refused(call: Command, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Any, states: Any, goal: Any, scale: float = 1.0) -> Any:
        return np.zeros(np.shape(states)[:-1], bool)

    monkeypatch.setattr(PushEnv, "is_success", never)
    monkeypatch.setattr("envs.push.PushTask.is_interesting", lambda self, start, goal: True)
    ended = call("planning.calibrate", f"checkpoint={checkpoint}", *RUNS)
    assert ended.code == 2 and "0 successful runs cannot show that at most 30.0% raise a false alarm" in ended.err
    assert not Path("runs/push/monitor.json").exists()
