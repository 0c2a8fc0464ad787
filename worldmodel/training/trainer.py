"""The training loop, with schedules, logs and checkpoints. A killed run can be resumed bit for bit.

All randomness of a step is a function of (seed, step), and a checkpoint holds parameters, optimiser and step. So a run
that was killed and resumed ends with the same bits as an uninterrupted one (on the same machine and thread count).
"""

from __future__ import annotations

import abc
import dataclasses
import io
import json
import math
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.files import naming, replacing
from worldmodel.core.progress import Progress, Silent


class TrainingStopped(RunStopped):
    """Further training would be useless (collapse, non-finite loss). The last good checkpoint is kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Options of `Trainer`. Those that differ between the trainings of `configs/` have no default.

    Attributes:
        steps: optimiser steps of the whole run. The schedules span all of them.
        batch_size: items per step.
        learning_rate: peak learning rate. It is reached after the warm-up, and then falls to `final_learning_rate` by a
            cosine.
        final_learning_rate: learning rate at the end.
        warmup: length of the warm-up, as a fraction of the steps.
        weight_decay: decay of matrices at the start; norms and biases are never decayed.
        final_weight_decay: decay of matrices at the end, which is reached by a cosine.
        clip_norm: largest gradient norm.
        precision: `bf16` (autocast) or `fp32`.
        seed: seed of all randomness.
        checkpoint_every_s: time between checkpoints [s].
        log_every: steps between log lines.
        evaluate_every: steps between evaluations.
    """

    steps: int
    batch_size: int
    learning_rate: float
    final_learning_rate: float
    warmup: float
    weight_decay: float
    final_weight_decay: float
    clip_norm: float = 1.0
    precision: str
    seed: int = 0
    checkpoint_every_s: float = 60.0
    log_every: int = 20
    evaluate_every: int

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision '{self.precision}' is unknown: choose from bf16, fp32")
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}")
        if self.log_every < 1 or self.evaluate_every < 1:
            received = f"{self.log_every} and {self.evaluate_every}"
            raise ValueError(f"log_every and evaluate_every must be at least 1, got {received}")
        if not 0 < self.learning_rate < math.inf or self.seed < 0:
            received = f"{self.learning_rate} and {self.seed}"
            raise ValueError(f"learning_rate must be above 0 and seed at least 0, got {received}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup {self.warmup}: expected a fraction of the steps, from 0 to 1")
        for name in ("final_learning_rate", "weight_decay", "final_weight_decay", "clip_norm", "checkpoint_every_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number of at least 0")


class TrainingTask(abc.ABC):
    """A task that `Trainer` runs. `module` has everything that a checkpoint must hold."""

    module: nn.Module

    @abc.abstractmethod
    def loss(self, step: int) -> dict[str, Tensor]:
        """Forward pass of `step`. Returns scalars by name, with `loss`. Randomness depends on (seed, step) alone."""

    def after_step(self, step: int, total: int) -> None:  # noqa: B027 (optional hook)
        """Called after every step of the optimiser."""

    def figures(self) -> dict[str, float]:
        """Further figures for every line of the log, for example of the data. They do not change the training."""
        return {}

    @abc.abstractmethod
    def evaluate(self, step: int) -> dict[str, float]:
        """Measures that the loss does not show. Raises TrainingStopped when further training is useless."""


def cosine(start: float, end: float, progress: float) -> float:
    """A cosine from `start` at progress 0 to `end` at progress 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def learning_rate_at(step: int, config: TrainerConfig) -> float:
    """Learning rate of a step, with a linear warm-up and then a cosine."""
    warmup_steps = max(1, round(config.warmup * config.steps))
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, config.steps - warmup_steps)
    return cosine(config.learning_rate, config.final_learning_rate, progress)


class JsonlLog:
    """Writes one JSON object per line, and the same numbers to TensorBoard."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        self._path = folder / "log.jsonl"
        kept = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] < resume_step:
                        kept.append(line)
                except (json.JSONDecodeError, KeyError):
                    continue  # a kill cut this line short
        with replacing(self._path) as file:
            file.write("".join(line + "\n" for line in kept).encode())
        self._board_path = folder / "tensorboard"
        with naming(self._board_path):
            self._board = SummaryWriter(str(self._board_path), purge_step=resume_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append the `values` of `step`. Numbers that are not finite do not exist in JSON and become null."""
        rounded = {k: round(v, 6) if math.isfinite(v) else None for k, v in values.items()}
        with naming(self._path), self._path.open("a") as file:
            file.write(json.dumps({"step": step, **rounded}) + "\n")
        with naming(self._board_path):
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        with naming(self._board_path):
            self._board.close()


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """A context that collects SIGINT and SIGTERM, so that they do not end the process during a step."""
    received: list[int] = []
    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, lambda n, _: received.append(n))
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _told_once() -> Iterator[None]:
    """A context that stops Python from printing errors of TensorBoard's writer thread, which are raised here anyway."""
    show = threading.excepthook
    threading.excepthook = lambda error: None if isinstance(error.exc_value, OSError) else show(error)
    try:
        yield
    finally:
        threading.excepthook = show


class Trainer:
    """Runs a task to the end of its schedule, from the last checkpoint in the run's folder.

    Args:
        task: the task to train.
        config: options of the training.
        folder: folder of the run.
        device: device of the training.
        section: section of the command's options that `config` comes from.

    Raises:
        UserError: when a checkpoint in the folder cannot be resumed.
    """

    def __init__(
        self, task: TrainingTask, config: TrainerConfig, folder: Path, device: torch.device, section: str = "trainer"
    ) -> None:
        self.task, self.config, self.folder, self.device, self._section = task, config, folder, device, section
        task.module.to(device)
        trained = [p for p in task.module.parameters() if p.requires_grad]
        self._groups = [
            {"params": [p for p in trained if p.ndim >= 2], "decays": True},
            {"params": [p for p in trained if p.ndim < 2], "decays": False, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(self._groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
        self.step = 0
        self._path = folder / "training.pt"
        if self._path.exists():
            self._load()

    def _load(self) -> None:
        try:
            state = torch.load(self._path, map_location=self.device, weights_only=True)
            self.task.module.load_state_dict(state["module"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = int(state["step"])
        except (RuntimeError, KeyError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self._path} cannot be resumed ({reason}); remove {self.folder} to start over") from error

    def save(self) -> None:
        """Write the checkpoint of this step."""
        state = {"module": self.task.module.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step}
        content = io.BytesIO()  # torch hides the reason of an error when it writes to a file
        torch.save(state, content)
        with replacing(self._path, one_writer=True) as file:
            file.write(content.getbuffer())

    def _require_finite(self, what: str, value: Tensor) -> None:
        if not torch.isfinite(value):
            kept = (
                f"the last good checkpoint is {self._path}" if self._path.exists() else "no checkpoint had been written"
            )
            raise TrainingStopped(
                f"{what} is {value.item()} at step {self.step}: {kept}; "
                f"a lower {self._section}.learning_rate ({self.config.learning_rate} now) usually helps, in "
                "another folder (out=...)"
            )

    def _optimise(self) -> dict[str, Tensor]:
        config = self.config
        rate = learning_rate_at(self.step, config)
        decay = cosine(config.weight_decay, config.final_weight_decay, self.step / config.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
            group["weight_decay"] = decay if group["decays"] else 0.0
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            values = self.task.loss(self.step)
        self._require_finite("loss", values["loss"])
        self.optimiser.zero_grad(set_to_none=True)
        values["loss"].backward()
        values["gradient_norm"] = nn.utils.clip_grad_norm_(
            [p for g in self.optimiser.param_groups for p in g["params"]], config.clip_norm
        )
        # A finite loss can have a gradient that is not finite. Clipping would spread it to every parameter.
        self._require_finite("gradient norm", values["gradient_norm"])
        self.optimiser.step()
        self.task.after_step(self.step, config.steps)
        return values

    @_told_once()
    def run(self, title: str, progress: Progress | None = None) -> None:
        """Train to the end, and report to `progress`.

        Raises:
            KeyboardInterrupt: on SIGINT or SIGTERM, after a checkpoint.
            OSError: when the folder cannot be written to. The last good checkpoint stays.
            TrainingStopped: when the task ends the training, or a loss or gradient is not finite. The last good
                checkpoint stays.
        """
        shown = Silent() if progress is None else progress
        log = JsonlLog(self.folder, self.step)
        if self.step:
            shown.report(f"going on at step {self.step} of {self.config.steps}")
        try:
            shown.begin(title, self.step, self.config.steps)
            with interruptible() as received:
                self._run(log, shown, received)
        finally:
            shown.end()
            log.close()

    def _run(self, log: JsonlLog, progress: Progress, received: list[int]) -> None:
        config = self.config
        last_save = last_log = time.monotonic()
        while self.step < config.steps:
            values = self._optimise()
            self.step += 1
            is_last, figures = self.step == config.steps, ""
            if self.step % config.log_every == 0 or is_last:
                scalars = {k: v.item() for k, v in values.items()}
                now = time.monotonic()
                items = config.batch_size * config.log_every / max(now - last_log, 1e-9)
                last_log = now
                log.write(self.step - 1, {**scalars, **self.task.figures(), "items_per_s": items})
                figures = f"loss {scalars['loss']:.4f}  {items:.0f} items/s"
            progress.step(self.step, figures)
            if self.step % config.evaluate_every == 0 or is_last:
                measured = self.task.evaluate(self.step)
                log.write(self.step - 1, measured)
                progress.report(f"step {self.step}: " + "  ".join(f"{k} {v:.4g}" for k, v in measured.items()))
                last_log = time.monotonic()
            if received or is_last or time.monotonic() - last_save > config.checkpoint_every_s:
                self.save()
                last_save = time.monotonic()
            if received:
                raise KeyboardInterrupt
