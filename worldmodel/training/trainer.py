"""The training loop, with schedules, logs and checkpoints. A killed run can be resumed bit for bit.

All randomness of a step is a function of (seed, step), and a checkpoint holds parameters, optimiser and step. So a run
that was killed and resumed ends with the same bits as an uninterrupted one (on the same machine and thread count).
"""

from __future__ import annotations

import abc
import io
import json
import math
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.files import naming, replacing
from worldmodel.core.progress import Progress, Silent
from worldmodel.training.schedules import TrainerConfig, cosine, learning_rate_at, weight_decay_at

__all__ = ["JsonlLog", "Trainer", "TrainerConfig", "TrainingStopped", "TrainingTask", "cosine", "learning_rate_at"]


class TrainingStopped(RunStopped):
    """Further training would be useless (collapse, non-finite loss). The last good checkpoint is kept."""


class TrainingTask(abc.ABC):
    """A task that `Trainer` runs. `module` has everything that a checkpoint must hold."""

    module: nn.Module

    @abc.abstractmethod
    def loss(self, step: int) -> dict[str, Tensor]:
        """Forward pass of `step`. Returns scalars by name, with `loss`. Randomness depends on (seed, step) alone."""

    def losses(self, step: int, total: int, parts: int) -> Iterator[dict[str, Tensor]]:
        """The same for `parts` equal parts of the batch, one after the other, at `step` of `total`.

        The mean of their losses is the loss of the whole batch. A task whose batches can be divided overrides this.

        Raises:
            UserError: for more than one part.
        """
        if parts > 1:
            raise UserError(f"accumulate {parts}: expected 1, since the batches of this training cannot be divided")
        yield self.loss(step)

    def compile(self, backend: str) -> None:
        """Compile the parts of the module with torch.compile. A task that can be compiled overrides this.

        Raises:
            UserError: for a task that cannot.
        """
        raise UserError(f"compile '{backend}': expected null, since this training cannot be compiled")

    def slower(self) -> tuple[Sequence[nn.Parameter], float]:
        """Parameters with a lower learning rate, and that rate as a fraction of the others'. By default, none."""
        return (), 1.0

    def after_step(self, step: int, total: int) -> None:  # noqa: B027 (optional hook)
        """Called after every step of the optimiser."""

    def figures(self) -> dict[str, float]:
        """Further figures for every line of the log, for example of the data. They do not change the training."""
        return {}

    @abc.abstractmethod
    def evaluate(self, step: int) -> dict[str, float]:
        """Measures that the loss does not show. Raises TrainingStopped when further training is useless."""


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


def _groups(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Groups of the optimiser. Only matrices decay."""
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "decays": True},
        {"params": [p for p in parameters if p.ndim < 2], "decays": False, "weight_decay": 0.0},
    ]


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
        slow, rate = task.slower()
        slow_ids = {id(p) for p in slow}
        self._groups = _groups([p for p in trained if id(p) not in slow_ids])
        if slow:
            self._groups += [{**group, "rate": rate} for group in _groups(list(slow))]
        beta1, beta2 = config.betas
        self.optimiser = torch.optim.AdamW(self._groups, lr=config.learning_rate, betas=(beta1, beta2), fused=True)
        self.step = 0
        self._path = folder / "training.pt"
        if self._path.exists():
            self._load()
        if config.compile is not None:
            task.compile(config.compile)

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

    def _backward(self) -> dict[str, Tensor]:
        """Gradients of one batch, part by part. Returns the means of the parts' values."""
        config, means = self.config, dict[str, Tensor]()
        losses = self.task.losses(self.step, config.steps, config.accumulate)
        self.optimiser.zero_grad(set_to_none=True)
        for _ in range(config.accumulate):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                values = next(losses)
            self._require_finite("loss", values["loss"])
            if config.accumulate == 1:
                values["loss"].backward()
                return values
            (values["loss"] / config.accumulate).backward()
            for name, value in values.items():
                share = value.detach() / config.accumulate
                means[name] = means[name] + share if name in means else share
        return means

    def _optimise(self) -> dict[str, Tensor]:
        config = self.config
        rate, decay = learning_rate_at(self.step, config), weight_decay_at(self.step, config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)
            group["weight_decay"] = decay if group["decays"] else 0.0
        values = self._backward()
        parameters = [p for g in self.optimiser.param_groups for p in g["params"]]
        limit = math.inf if config.clip_norm is None else config.clip_norm
        values["gradient_norm"] = nn.utils.clip_grad_norm_(parameters, limit)
        # A finite loss can have a gradient that is not finite. Clipping would spread it to every parameter.
        self._require_finite("gradient norm", values["gradient_norm"])
        self.optimiser.step()
        self.task.after_step(self.step, config.schedule_steps)
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
