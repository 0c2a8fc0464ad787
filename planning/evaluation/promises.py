"""What plans promise in the task's units, for example by how many centimetres a cube will have moved.

A small network learns to read the simulator's state out of latents, from states that episodes came through. It reads
the present and the imagined end of every plan. The task's own errors between the two are the motion that was promised,
and those between the true states are the motion that came. Only this check uses states, and no planner does.

Shapes: `n` latents, `D` numbers of a latent's decodable part, `N` simulator state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from planning.environment import Environment, Floats

# A plan promises motion of a thing from two thirds of the metric's tolerance on: 2 cm of a cube that has 3 cm.
_LEAST_PROMISE: Final = 2 / 3
_HELD_OUT: Final = 0.2  # share of the groups on whose states the error of reading is measured
# States are few, so a strong decay of weights lowers the error on other episodes.
_WIDTH, _STEPS, _RATE, _DECAY = 128, 600, 3e-3, 1.0


class Compared(Protocol):
    """What is known of one plan: codes `[D]` and states `[N]` of its present and its end."""

    @property
    def codes(self) -> tuple[Tensor, Tensor] | None: ...
    @property
    def states(self) -> tuple[Floats, Floats]: ...


@dataclasses.dataclass(frozen=True)
class Known:
    """States from which a network learns to read latents.

    Attributes:
        states: `[N]` each.
        groups: `[n]`, the same number for states that are alike, such as those of all episodes from one start. Whole
            groups are held out.
        judged: `[n]`, whether the error of reading is measured on a state that is held out.
    """

    states: Sequence[Floats]
    groups: NDArray[np.int64]
    judged: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Promise:
    """Promises about one metric of the task, over many plans.

    Attributes:
        metric: its name.
        unit: unit of the following figures.
        reading_error: median error of the network that reads latents, in groups that it did not learn from. A plan
            that moves nothing can be read as a promise, which lowers `kept`.
        least: motion from which on a plan counts as promising.
        plans: number of plans that promise at least so much; 0 if the metric cannot be read.
        promised: mean motion that these promise; None without such plans, as the next two.
        came: mean motion that came of them.
        kept: share of them of which at least half of `least` came.
    """

    metric: str
    unit: str
    reading_error: float
    least: float
    plans: int
    promised: float | None = None
    came: float | None = None
    kept: float | None = None

    @property
    def can_be_read(self) -> bool:
        """Whether an error of reading is at most half of the least promise."""
        return self.reading_error <= self.least / 2

    def __str__(self) -> str:
        if not self.can_be_read:
            return (
                f"what plans promise of {self.metric} cannot be read: the median error of reading is "
                f"{self.reading_error:.2g} {self.unit}, and up to {self.least / 2:.2g} would do"
            )
        if self.kept is None:
            return f"no plan promises to move {self.metric} by {self.least:.2g} {self.unit}"
        return (
            f"{self.plans} plans promise to move {self.metric} by {self.least:.2g} {self.unit} or more, "
            f"{self.kept:.0%} of them move it by {self.least / 2:.2g} or more; in the mean {self.promised:.2g} "
            f"{self.unit} are promised and {self.came:.2g} come (median error of reading: {self.reading_error:.2g})"
        )


class Readout:
    """Reads states out of codes.

    Args:
        codes: float32 `[n, D]`.
        known: their states.
        seed: seed of the network.

    Attributes:
        held_out: numbers of the states that are held out and judged.
    """

    def __init__(self, codes: Tensor, known: Known, seed: int) -> None:
        wanted = torch.from_numpy(np.array(known.states)).float()
        self._mean, self._scale = wanted.mean(0), wanted.std(0).clamp_min(1e-6)
        self._center, self._spread = codes.mean(0), codes.std(0).clamp_min(1e-6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = nn.Sequential(
                nn.Linear(codes.shape[1], _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _WIDTH), nn.GELU(),
                nn.Linear(_WIDTH, wanted.shape[1]),
            )  # fmt: skip
        groups = np.random.default_rng(seed).permutation(np.unique(known.groups))
        is_held_out = np.isin(known.groups, groups[: max(1, round(_HELD_OUT * len(groups)))])
        self.held_out = np.flatnonzero(is_held_out & known.judged)
        # A single group is all that there is to learn from.
        learned = np.flatnonzero(~is_held_out | (len(groups) == 1))
        self._learn(codes[learned], wanted[learned])

    def read(self, codes: Tensor) -> NDArray[np.float64]:
        """States `[..., N]` of codes `[..., D]`."""
        with torch.no_grad():
            read = self._network((codes - self._center) / self._spread) * self._scale + self._mean
        return np.asarray(read.double().numpy(), np.float64)

    @torch.enable_grad()
    def _learn(self, codes: Tensor, wanted: Tensor) -> None:
        inputs, targets = (codes - self._center) / self._spread, (wanted - self._mean) / self._scale
        optimiser = torch.optim.AdamW(self._network.parameters(), lr=_RATE, weight_decay=_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
        for _ in range(_STEPS):
            optimiser.zero_grad()
            nn.functional.smooth_l1_loss(self._network(inputs), targets, beta=0.1).backward()
            optimiser.step()
            schedule.step()


def in_units(env: Environment, plans: Sequence[Compared], codes: Tensor, known: Known, seed: int = 0) -> list[Promise]:
    """What `plans` promised and what came, by metric.

    Args:
        env: the environment, whose metrics have the units.
        plans: the plans.
        codes: float32 `[n, D]` of the latents of the known states.
        known: states that a network learns to read.
        seed: seed of the network.

    Returns:
        A `Promise` for each metric.
    """
    readout = Readout(codes, known, seed)
    read, true = readout.read(codes[readout.held_out]), np.array(known.states)[readout.held_out]
    pairs = [(plan.codes, plan.states) for plan in plans if plan.codes is not None]
    present, ahead = (readout.read(torch.stack([codes[which] for codes, _ in pairs])) for which in (0, 1))
    before, after = (np.array([states[which] for _, states in pairs]) for which in (0, 1))
    errors = env.goal_errors(read, true)
    promised, came = env.goal_errors(ahead, present), env.goal_errors(after, before)
    found = []
    for metric in env.metrics:
        name, error, least = metric.name, float(np.median(errors[metric.name])), _LEAST_PROMISE * metric.tolerance
        unread = Promise(name, metric.unit, error, least, plans=0)
        found.append(_kept(unread, promised[name], came[name]) if unread.can_be_read else unread)
    return found


def _kept(promise: Promise, promised: Floats, came: Floats) -> Promise:
    """`promise` with its figures: `promised` and `came` `[plans]` are motions in its unit."""
    moving = promised >= promise.least
    if not moving.any():
        return promise
    moved = came[moving]
    return dataclasses.replace(
        promise,
        plans=len(moved),
        promised=float(promised[moving].mean()),
        came=float(moved.mean()),
        kept=float((moved >= promise.least / 2).mean()),
    )
