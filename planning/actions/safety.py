"""The final check of actions before an environment or a robot executes them."""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planning.actions.limits import ActionLimits
from worldmodel.core.spec import BINARY, ActionSpec


def safe_actions(actions: Tensor, limits: ActionLimits, last: Tensor) -> tuple[Tensor, Tensor]:
    """Actions `[B, A]` that may be executed after the command `last [B, A]`, and whether each row `[B]` was replaced.

    A row with a number that is not finite is replaced by rest. This is tested before clipping, because clipping a NaN
    can give a bound, which is the fastest motion.
    """
    replaced = ~actions.isfinite().all(-1)
    wanted = torch.where(replaced[:, None], limits.rest(last), actions)
    return limits.project(wanted[:, None], last)[:, 0], replaced


def finite_or_worst(cost: Tensor) -> Tensor:
    """`cost` with +inf for all values that are not finite. Minus infinity means a broken model, not a perfect plan."""
    return torch.where(cost.isfinite(), cost, torch.inf)


@dataclasses.dataclass(frozen=True)
class LimitCheck:
    """Says which commands break a robot's limits, in physical units and double precision.

    It reads the specification itself and shares no code with `ActionLimits`, which makes the commands. So a mistake in
    one of them is found by the other.

    Attributes:
        low: smallest command `[A]`.
        high: largest command `[A]`.
        ends: `[2, A]`, the two values of a binary dimension, as single precision has them.
        binary: `[A]`, where only these two may be commanded.
        largest_change: `[A]`, from one command to the next, per control step; infinite where there is no limit.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    ends: NDArray[np.float64]
    binary: NDArray[np.bool_]
    largest_change: NDArray[np.float64]

    @classmethod
    def of(cls, action: ActionSpec, control_step_s: float) -> Self:
        """Of what a robot can be told to do, once per control step of `control_step_s` [s]."""
        return cls(
            np.array(action.low, np.float64),
            np.array(action.high, np.float64),
            np.array(action.bounds, np.float64),
            np.array(action.kinds) == BINARY,
            np.array([np.inf if rate is None else rate * control_step_s for rate in action.max_rate]),
        )

    def broken(self, commands: NDArray[np.float32], last: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which numbers of `commands [..., A]` may not be given after `last [..., A]`; of the same shape.

        As everywhere, `last` counts as if it lay within the bounds itself.
        """
        wanted, before = commands.astype(np.float64), np.clip(last.astype(np.float64), self.low, self.high)
        # Whatever is no number fails every comparison.
        allowed = (wanted >= self.low) & (wanted <= self.high)
        allowed &= ~self.binary | (wanted == self.ends[0]) | (wanted == self.ends[1])
        with np.errstate(invalid="ignore"):
            allowed &= np.abs(wanted - before) <= self.largest_change
        return ~allowed
