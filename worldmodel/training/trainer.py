"""The training loop, with schedules, logs and checkpoints. A killed run can be resumed bit for bit.

All randomness of a step is a function of (seed, step), and a checkpoint holds parameters, optimiser and step. So a run
that was killed and resumed ends with the same bits as an uninterrupted one (on the same machine and thread count).

Several ranks (`worldmodel.core.ranks`) train together if a command has joined them. All of them compute and evaluate.
The first one logs and writes the checkpoints, unless every rank has a part of the state (`worldmodel.training.parts`).
"""

from __future__ import annotations

import abc
import io
import math
import pickle
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from worldmodel.core.device import autocast
from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.files import replacing
from worldmodel.core.progress import Progress, Silent
from worldmodel.core.ranks import Rank, here
from worldmodel.training.collectives import average, largest, mean, on_any
from worldmodel.training.log import JsonlLog, Log, NoLog, told_once
from worldmodel.training.parallel import DDP, divide, parameters_of, whole
from worldmodel.training.runs import WHOLE, newest_in_parts, remove_parts, step_of
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

    def share(self, rank: Rank) -> None:
        """From now on, `loss` and `losses` compute the part of `rank` in the batch of all ranks.

        The mean of the ranks' losses is the loss of the whole batch. Every rank draws the same random numbers as a rank
        that is alone. A task whose batches can be divided among ranks overrides this.

        Raises:
            UserError: for a task whose batches cannot.
        """
        raise UserError(f"{rank.count} ranks: expected 1, since the batches of this training cannot be divided")

    def shard(self, mesh: DeviceMesh) -> None:
        """Divide the weights of the module among the ranks by `fully_shard` (FSDP2). A task that can overrides this.

        Raises:
            UserError: for a task that cannot.
        """
        raise UserError("parallel 'fsdp': expected ddp, since the weights of this training cannot be divided")

    def after_step(self, step: int, total: int) -> None:  # noqa: B027 (optional hook)
        """Called after every step of the optimiser."""

    def figures(self) -> dict[str, float]:
        """Further figures for every line of the log, for example of the data. They do not change the training."""
        return {}

    @abc.abstractmethod
    def evaluate(self, step: int) -> dict[str, float]:
        """Measures that the loss does not show. Raises TrainingStopped when further training is useless."""


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
        parallel: how several ranks divide the training, `ddp` or `fsdp` (`worldmodel.training.parallel`).

    Raises:
        UserError: when a checkpoint in the folder cannot be resumed, and for a task that several ranks cannot divide.
    """

    def __init__(
        self,
        task: TrainingTask,
        config: TrainerConfig,
        folder: Path,
        device: torch.device,
        section: str = "trainer",
        parallel: str = DDP,
    ) -> None:
        self.task, self.config, self.folder, self.device, self._section = task, config, folder, device, section
        task.module.to(device)
        self._path, self.step = folder / WHOLE, 0
        with self._resuming():
            state, in_parts = self._read(), newest_in_parts(folder)
            if state is not None and in_parts is not None:  # of a run that was killed between writing and removing
                state, in_parts = (state, None) if state["step"] > step_of(in_parts) else (None, in_parts)
            if state is not None:
                task.module.load_state_dict(state["module"])
                self.step = int(state["step"])
            if in_parts is not None:
                self.step = step_of(in_parts)
        self._require_same_step()  # before all ranks read parts together
        self._division = divide(task, parallel, device)
        trained = [p for p in task.module.parameters() if p.requires_grad]
        slow, rate = task.slower()
        slow_ids = {id(p) for p in slow}
        self._groups = _groups([p for p in trained if id(p) not in slow_ids])
        if slow:
            self._groups += [{**group, "rate": rate} for group in _groups(list(slow))]
        beta1, beta2 = config.betas
        self.optimiser = torch.optim.AdamW(self._groups, lr=config.learning_rate, betas=(beta1, beta2), fused=True)
        with self._resuming():
            if state is not None:
                own = self._division.scatter(state["optimiser"], parameters_of(self.optimiser))
                self.optimiser.load_state_dict(own)
            if in_parts is not None:
                from worldmodel.training import parts  # which takes a second

                parts.load(in_parts, task.module, self.optimiser)
        if config.compile is not None:
            task.compile(config.compile)

    @property
    def _stored(self) -> Path:
        """The newest checkpoint, or where it will be."""
        return newest_in_parts(self.folder) or self._path

    def _read(self) -> dict[str, Any] | None:
        if not self._path.exists():
            return None
        state: dict[str, Any] = torch.load(self._path, map_location=self.device, weights_only=True)
        return state

    @contextmanager
    def _resuming(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, KeyError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self._stored} cannot be resumed ({reason}); remove {self.folder} to start over"
            ) from error

    def _require_same_step(self) -> None:
        latest = largest({"step": float(self.step), "negative": -float(self.step)})
        if latest["step"] != -latest["negative"]:
            raise UserError(
                f"{self._stored} is at step {latest['step']:.0f} for one rank and at {-latest['negative']:.0f} for "
                "another: expected a folder that all machines share"
            )

    def save(self) -> None:
        """Write the checkpoint of this step. All ranks call it. The first one writes, or all of them in parts."""
        if self._division.in_parts:
            self._division.write_part(self.folder, self.step, self.optimiser)
            if here().is_first:
                self._path.unlink(missing_ok=True)
            return
        if not here().is_first:
            return
        state = {"module": self.task.module.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step}
        content = io.BytesIO()  # torch hides the reason of an error when it writes to a file
        torch.save(state, content)
        with replacing(self._path, one_writer=True) as file:
            file.write(content.getbuffer())
        remove_parts(self.folder)

    def _require_finite(self, what: str, value: Tensor) -> None:
        if not torch.isfinite(value):
            stored = self._stored
            kept = f"the last good checkpoint is {stored}" if stored.exists() else "no checkpoint had been written"
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
        for part in range(config.accumulate):
            with autocast(config.precision, self.device):
                values = self._division.forward(losses, is_last=part == config.accumulate - 1)
            self._require_finite("loss", mean(values["loss"].detach()))
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
        limit = math.inf if config.clip_norm is None else config.clip_norm
        values["gradient_norm"] = whole(nn.utils.clip_grad_norm_(parameters_of(self.optimiser), limit))
        # A finite loss can have a gradient that is not finite. Clipping would spread it to every parameter.
        self._require_finite("gradient norm", values["gradient_norm"])
        self.optimiser.step()
        self.task.after_step(self.step, config.schedule_steps)
        return values

    @told_once()
    def run(self, title: str, progress: Progress | None = None) -> None:
        """Train to the end, and report to `progress`.

        Raises:
            KeyboardInterrupt: on SIGINT or SIGTERM, after a checkpoint.
            OSError: when the folder cannot be written to. The last good checkpoint stays.
            TrainingStopped: when the task ends the training, or a loss or gradient is not finite. The last good
                checkpoint stays.
        """
        shown = Silent() if progress is None or not here().is_first else progress
        log = JsonlLog(self.folder, self.step) if here().is_first else NoLog()
        if self.step:
            shown.report(f"going on at step {self.step} of {self.config.steps}")
        try:
            shown.begin(title, self.step, self.config.steps)
            with interruptible() as received:
                self._run(log, shown, received)
            self._division.finish()
        finally:
            shown.end()
            log.close()

    def _run(self, log: Log, progress: Progress, received: list[int]) -> None:
        config = self.config
        last_save = last_log = time.monotonic()
        while self.step < config.steps:
            values = self._optimise()
            self.step += 1
            is_last, figures = self.step == config.steps, ""
            if self.step % config.log_every == 0 or is_last:
                scalars = average(values)
                now = time.monotonic()
                items = config.batch_size * config.log_every / max(now - last_log, 1e-9)
                last_log = now
                log.write(self.step - 1, {**scalars, **largest(self.task.figures()), "items_per_s": items})
                figures = f"loss {scalars['loss']:.4f}  {items:.0f} items/s"
            progress.step(self.step, figures)
            if self.step % config.evaluate_every == 0 or is_last:
                measured = self.task.evaluate(self.step)
                log.write(self.step - 1, measured)
                progress.report(f"step {self.step}: " + "  ".join(f"{k} {v:.4g}" for k, v in measured.items()))
                last_log = time.monotonic()
            is_due = is_last or time.monotonic() - last_save > config.checkpoint_every_s
            is_interrupted, is_due = on_any(bool(received), is_due)  # all ranks save and leave after the same step
            if is_interrupted or is_due:
                self.save()
                last_save = time.monotonic()
            if is_interrupted:
                raise KeyboardInterrupt
