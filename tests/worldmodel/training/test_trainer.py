"""The training loop: logs, and coming back from whatever stopped it."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor, nn

from tests.commands import refuse_to_write
from worldmodel.core.errors import UserError
from worldmodel.training.trainer import (
    JsonlLog,
    Trainer,
    TrainerConfig,
    TrainingStopped,
    TrainingTask,
)

CPU = torch.device("cpu")
CONFIG = TrainerConfig(
    steps=12,
    batch_size=8,
    learning_rate=1e-2,
    final_learning_rate=1e-6,
    warmup=0.1,
    weight_decay=0.1,
    final_weight_decay=0.05,
    precision="bf16",
    checkpoint_every_s=0,
    log_every=2,
    evaluate_every=5,
)


class PowerCutError(Exception):
    """What a test throws into the loop in the place of a kill."""


class Regression(TrainingTask):
    """Fit a linear map from noise that (seed, step) decides; `trouble(step, values)` may interfere."""

    def __init__(self, trouble: Callable[[int, Tensor], Tensor] | None = None) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))
        self.trouble = trouble or (lambda _, loss: loss)
        self.after: list[int] = []
        self.evaluated: list[int] = []
        self.collapse_at: int | None = None

    def loss(self, step: int) -> dict[str, Tensor]:
        x = torch.from_numpy(np.random.default_rng([3, step]).standard_normal((8, 4)).astype(np.float32))
        loss = (self.module(x).float() - x.sum(1, keepdim=True)).pow(2).mean()
        return {"loss": self.trouble(step, loss)}

    def after_step(self, step: int, total: int) -> None:
        assert total == CONFIG.steps
        self.after.append(step)

    def evaluate(self, step: int) -> dict[str, float]:
        self.evaluated.append(step)
        if step == self.collapse_at:
            raise TrainingStopped("collapsed")
        return {"score": float(step)}


def train(folder: Path, config: TrainerConfig = CONFIG, task: Regression | None = None) -> Trainer:
    folder.mkdir(exist_ok=True)
    trainer = Trainer(task or Regression(), config, folder, CPU)
    trainer.run("test")
    return trainer


def state_of(trainer: Trainer) -> list[Tensor]:
    moments = [v for s in trainer.optimiser.state_dict()["state"].values() for v in s.values()]
    return [*trainer.task.module.state_dict().values(), *moments]


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def changed(**values: Any) -> TrainerConfig:
    return TrainerConfig(**{**CONFIG.__dict__, **values})


# --- one step ----------------------------------------------------------------------------------------------------


def test_weight_decay_spares_vectors(tmp_path: Path) -> None:
    """With a gradient of zero, decay is all that moves a parameter: matrices shrink by 1 - lr·decay."""
    task = Regression(lambda _, loss: 0.0 * loss)
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    config = changed(steps=1, warmup=0.0, final_weight_decay=0.1)
    task.after_step = lambda step, total: None  # type: ignore[method-assign]
    train(tmp_path, config, task)
    for name, value in task.module.state_dict().items():
        factor = 1 - 1e-2 * 0.1 if value.ndim >= 2 else 1.0
        torch.testing.assert_close(value, factor * before[name])


def test_training_learns_and_calls_its_hooks(tmp_path: Path) -> None:
    task = Regression()
    train(tmp_path, CONFIG, task)
    assert task.after == list(range(12))
    assert task.evaluated == [5, 10, 12]
    log = log_of(tmp_path)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert [(e["step"], e["score"]) for e in log if "score" in e] == [(4, 5.0), (9, 10.0), (11, 12.0)]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_without_a_limit_gradients_keep_their_size(tmp_path: Path) -> None:
    limits: list[float | None] = [None, 1e9]
    free, loose = (train(tmp_path / str(limit), changed(clip_norm=limit)) for limit in limits)
    assert all(torch.equal(a, b) for a, b in zip(state_of(free), state_of(loose), strict=True))
    tight = train(tmp_path / "tight", changed(clip_norm=1e-3))
    assert not all(torch.equal(a, b) for a, b in zip(state_of(free), state_of(tight), strict=True))


def test_the_optimiser_has_the_betas_asked_for(tmp_path: Path) -> None:
    (group, _) = Trainer(Regression(), changed(betas=(0.8, 0.999)), tmp_path, CPU).optimiser.param_groups
    assert group["betas"] == (0.8, 0.999)


def test_a_task_whose_batches_cannot_be_divided_or_compiled_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="accumulate 2: expected 1, since"):
        train(tmp_path, changed(accumulate=2))
    with pytest.raises(UserError, match="compile 'eager': expected null, since"):
        Trainer(Regression(), changed(compile="eager"), tmp_path, CPU)


# --- going on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("cut", [0, 1, 7, 11])
def test_a_run_that_was_cut_ends_bit_for_bit_like_one_that_was_not(tmp_path: Path, cut: int, precision: str) -> None:
    config = changed(precision=precision)
    whole = train(tmp_path / "whole", config)

    def cut_power(step: int, loss: Tensor) -> Tensor:
        if step == cut:
            raise PowerCutError
        return loss

    with pytest.raises(PowerCutError):
        train(tmp_path / "cut", config, Regression(cut_power))
    resumed = train(tmp_path / "cut", config)
    assert all(torch.equal(a, b) for a, b in zip(state_of(whole), state_of(resumed), strict=True))

    def without_rate(folder: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in entry.items() if k != "items_per_s"} for entry in log_of(folder)]

    assert without_rate(tmp_path / "cut") == without_rate(tmp_path / "whole")


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    first = train(tmp_path)
    task = Regression()
    again = train(tmp_path, CONFIG, task)
    assert task.after == []
    assert all(torch.equal(a, b) for a, b in zip(state_of(first), state_of(again), strict=True))


def test_the_log_keeps_what_came_before_the_checkpoint_only(tmp_path: Path) -> None:
    lines = ['{"step": 3, "loss": 1}', '{"step": 9, "loss": 2}', '{"step": 10, "loss": 3}', '{"loss": 4}', '{"step": 1']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    log = JsonlLog(tmp_path, resume_step=10)
    log.write(10, {"loss": 0.123456789})
    log.write(11, {"loss": math.nan})
    log.close()
    assert [(e["step"], e["loss"]) for e in log_of(tmp_path)] == [(3, 1), (9, 2), (10, 0.123457), (11, None)]
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "other module", "other optimiser"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    train(tmp_path)
    path = tmp_path / "training.pt"
    content = path.read_bytes()
    if damage in ("truncated", "garbage", "empty"):
        path.write_bytes(
            {"truncated": content[: len(content) // 2], "garbage": b"not a checkpoint", "empty": b""}[damage]
        )
    else:
        state = torch.load(path, weights_only=True)
        if damage == "other module":
            state["module"] = nn.Linear(2, 2).state_dict()
        else:
            state["optimiser"] = torch.optim.AdamW([nn.Parameter(torch.zeros(1))]).state_dict()
        torch.save(state, path)
    with pytest.raises(UserError, match=r"training\.pt cannot be resumed") as caught:
        Trainer(Regression(), CONFIG, tmp_path, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_writes_a_checkpoint_and_leaves(tmp_path: Path, number: int) -> None:
    config = changed(checkpoint_every_s=1e9)
    before = signal.getsignal(number)

    def interrupt(step: int, loss: Tensor) -> Tensor:
        if step == 3:
            os.kill(os.getpid(), number)
        return loss

    task = Regression(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, config, task)
    assert signal.getsignal(number) is before
    assert task.after == [0, 1, 2, 3], "the step that was under way is finished"
    assert torch.load(tmp_path / "training.pt", weights_only=True)["step"] == 4
    whole, resumed = train(tmp_path / "whole", config), train(tmp_path, config)
    assert all(torch.equal(a, b) for a, b in zip(state_of(whole), state_of(resumed), strict=True))


# --- trouble -----------------------------------------------------------------------------------------------------


def not_finite(step: int, loss: Tensor) -> Tensor:
    return loss * math.nan if step == 5 else loss


def infinite_slope(step: int, loss: Tensor) -> Tensor:
    """A finite loss whose gradient is not: the slope of a square root at zero."""
    return loss + torch.sqrt(0.0 * loss) if step == 5 else loss


@pytest.mark.parametrize("trouble", [not_finite, infinite_slope])
def test_what_is_not_finite_stops_training_before_it_reaches_the_parameters(
    tmp_path: Path, trouble: Callable[[int, Tensor], Tensor]
) -> None:
    with pytest.raises(TrainingStopped, match=r"step 5.*training.pt.*trainer.learning_rate \(0.01 now\)"):
        train(tmp_path, CONFIG, Regression(trouble))
    saved = torch.load(tmp_path / "training.pt", weights_only=True)
    assert saved["step"] == 5
    assert all(bool(value.isfinite().all()) for value in saved["module"].values())
    assert train(tmp_path).step == CONFIG.steps, "and the checkpoint can be gone on from"


def test_a_disk_without_room_for_a_checkpoint_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:

        def trouble(step: int, loss: Tensor) -> Tensor:
            if step == 5:
                refuse_to_write(patch, "training.pt")
            return loss

        with pytest.raises(OSError, match="No space left on device") as error:
            train(tmp_path / "run", CONFIG, Regression(trouble))
    assert error.value.filename == str(tmp_path / "run" / "training.pt")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"log.jsonl", "tensorboard", "training.pt"}
    assert torch.load(tmp_path / "run" / "training.pt", weights_only=True)["step"] == 5
    resumed = train(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(state_of(whole), state_of(resumed), strict=True))


def test_a_disk_without_room_for_tensorboard_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: RecordWriter, data: bytes) -> None:
        assert threading.current_thread() is not threading.main_thread()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", write)
    with pytest.raises(OSError, match="No space left on device") as error:
        train(tmp_path)
    assert error.value.filename == str(tmp_path / "tensorboard")


def test_no_checkpoint_is_promised_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="no checkpoint had been written"):
        train(tmp_path, changed(checkpoint_every_s=1e9), Regression(not_finite))
    assert not (tmp_path / "training.pt").exists()


def test_collapse_stops_training_and_keeps_the_checkpoint_from_before(tmp_path: Path) -> None:
    task = Regression()
    task.collapse_at = 10
    with pytest.raises(TrainingStopped, match="collapsed"):
        train(tmp_path, CONFIG, task)
    assert torch.load(tmp_path / "training.pt", weights_only=True)["step"] == 9
    assert [e["step"] for e in log_of(tmp_path) if "score" in e] == [4]


# --- progress and memory -----------------------------------------------------------------------------------------


class Told:
    """A progress that writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def begin(self, title: str, done: int, total: int) -> None:
        self.said.append((title, done, total))

    def step(self, done: int, shown: str = "") -> None:
        self.said.append((done, shown.partition(" ")[0]))

    def report(self, line: str) -> None:
        self.said.append(line)

    def end(self) -> None:
        self.said.append("end")


def test_every_step_is_told_from_the_first_on(tmp_path: Path) -> None:
    told = Told()
    Trainer(Regression(), changed(log_every=5, evaluate_every=10), tmp_path, CPU).run("fit", told)
    steps = [(step, "loss" if step in (5, 10, 12) else "") for step in range(1, 13)]
    assert told.said == [("fit", 0, 12), *steps[:10], "step 10: score 10", *steps[10:], "step 12: score 12", "end"]
