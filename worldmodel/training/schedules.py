"""Options of the training loop, and the schedules that they describe."""

from __future__ import annotations

import dataclasses
import math
from typing import Final

from worldmodel.core.device import check_precision

SCHEDULES: Final = ("constant", "cosine")
BACKENDS: Final = ("aot_eager", "eager", "inductor")  # of torch.compile; the first two are for tests


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Options of `Trainer`. Those that differ between the trainings of `configs/` have no default.

    Attributes:
        steps: optimiser steps of the whole run. The schedules span all of them.
        batch_size: items per step.
        learning_rate: peak learning rate. It is reached after the warm-up, and then follows `schedule`.
        final_learning_rate: learning rate at the end.
        warmup: length of the warm-up, as a fraction of the steps.
        weight_decay: decay of matrices at the start; norms and biases are never decayed.
        final_weight_decay: decay of matrices at the end, which is reached by a cosine.
        clip_norm: largest gradient norm; None for no limit.
        precision: `bf16` (autocast), `fp32`, or `auto`, which is bf16 where the device has instructions for it.
        seed: seed of all randomness.
        checkpoint_every_s: time between checkpoints [s].
        log_every: steps between log lines.
        evaluate_every: steps between evaluations.
        schedule: learning rate after the warm-up: `cosine` to `final_learning_rate`, or `constant` until the cooldown.
        start_learning_rate: learning rate from which the warm-up rises.
        cooldown: length of the linear fall to `final_learning_rate` that ends the schedule `constant`, as a fraction
            of the steps.
        stretch: length of the cosines divided by that of the run. Above 1, the run ends before they do (V-JEPA's
            `ipe_scale`).
        betas: coefficients of AdamW's running averages.
        accumulate: parts into which every batch is divided. Their gradients are added before a step, so less memory is
            needed.
        compile: backend of torch.compile, such as `inductor`; None not to compile.
    """

    steps: int
    batch_size: int
    learning_rate: float
    final_learning_rate: float
    warmup: float
    weight_decay: float
    final_weight_decay: float
    clip_norm: float | None = 1.0
    precision: str
    seed: int = 0
    checkpoint_every_s: float = 60.0
    log_every: int = 20
    evaluate_every: int
    schedule: str = "cosine"
    start_learning_rate: float = 0.0
    cooldown: float = 0.0
    stretch: float = 1.0
    betas: tuple[float, ...] = (0.9, 0.95)
    accumulate: int = 1
    compile: str | None = None

    def __post_init__(self) -> None:
        self._check_choices()
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}")
        if self.log_every < 1 or self.evaluate_every < 1:
            received = f"{self.log_every} and {self.evaluate_every}"
            raise ValueError(f"log_every and evaluate_every must be at least 1, got {received}")
        if not 0 < self.learning_rate < math.inf or self.seed < 0:
            received = f"{self.learning_rate} and {self.seed}"
            raise ValueError(f"learning_rate must be above 0 and seed at least 0, got {received}")
        for name in ("warmup", "cooldown"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected a fraction of the steps, from 0 to 1")
        if self.warmup + self.cooldown > 1:
            raise ValueError(f"warmup {self.warmup} and cooldown {self.cooldown}: expected at most 1 together")
        for name in (
            "final_learning_rate", "start_learning_rate", "weight_decay", "final_weight_decay", "checkpoint_every_s",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number of at least 0")
        if self.clip_norm is not None and not 0 <= self.clip_norm < math.inf:
            raise ValueError(f"clip_norm {self.clip_norm}: expected a number of at least 0, or null")
        if not 1 <= self.stretch < math.inf:
            raise ValueError(f"stretch {self.stretch}: expected a number of at least 1")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {list(self.betas)}: expected two numbers from 0 to below 1")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate}: expected a divisor of batch_size {self.batch_size}")

    def _check_choices(self) -> None:
        check_precision(self.precision)
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule '{self.schedule}' is unknown: choose from {', '.join(SCHEDULES)}")
        if self.cooldown and self.schedule != "constant":
            raise ValueError(f"cooldown {self.cooldown} with schedule '{self.schedule}': expected schedule 'constant'")
        if self.compile is not None and self.compile not in BACKENDS:
            raise ValueError(f"compile '{self.compile}' is unknown: choose from null, {', '.join(BACKENDS)}")

    @property
    def schedule_steps(self) -> int:
        """Steps that the cosines span."""
        return round(self.steps * self.stretch)


def cosine(start: float, end: float, progress: float) -> float:
    """A cosine from `start` at progress 0 to `end` at progress 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def linear(start: float, end: float, progress: float) -> float:
    """A straight line from `start` at progress 0 to `end` at progress 1."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def learning_rate_at(step: int, config: TrainerConfig) -> float:
    """Learning rate of a step, with a linear warm-up, and then a cosine, or a constant with a linear cooldown."""
    warmup_steps = max(1, round(config.warmup * config.steps))
    if step < warmup_steps:
        start = config.start_learning_rate
        return start + (config.learning_rate - start) * (step + 1) / warmup_steps
    if config.schedule == "constant":
        cooldown_steps = round(config.cooldown * config.steps)
        into_cooldown = step + 1 - (config.steps - cooldown_steps)
        progress = into_cooldown / cooldown_steps if cooldown_steps else 0.0
        return linear(config.learning_rate, config.final_learning_rate, progress)
    progress = (step - warmup_steps) / max(1, config.schedule_steps - warmup_steps)
    return cosine(config.learning_rate, config.final_learning_rate, progress)


def weight_decay_at(step: int, config: TrainerConfig) -> float:
    """Decay of matrices at a step."""
    return cosine(config.weight_decay, config.final_weight_decay, step / config.schedule_steps)
