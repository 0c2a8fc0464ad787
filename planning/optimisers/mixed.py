"""CEM over continuous actions and schedules of binary ones, such as a gripper that closes once.

A Gaussian over knots rarely holds a gripper closed for a whole plan. Here every binary dimension follows one of the
schedules that change at most `switches` times over the horizon, counted from the command in force. The search keeps a
probability for each schedule.

Shapes: `B` plans, `S` candidates of each, `K` knots, `A` action dimensions, `D` of them binary, `M` schedules.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Final

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.optimisers.base import OptimiserEntry, Search
from planning.optimisers.cem import CEM, CEMConfig, elite_weights
from planning.types import Plan, Problem
from worldmodel.core.errors import UserError
from worldmodel.core.tensor_record import TensorRecord

MOST_SCHEDULES: Final = 4096  # of every binary dimension, more than any sensible number of samples could tell apart


@dataclasses.dataclass(frozen=True)
class MixedConfig(CEMConfig):
    """Options of `Mixed`, beside those of `CEMConfig`.

    Attributes:
        switches: largest number of changes of a binary dimension over the horizon, the one from the last command
            included.
        switching: names of continuous dimensions that are searched like binary ones. A gripper whose command is a speed
            needs no other values than those that open and close it.
        surprise: share of the probability that all schedules keep alike, so that none is ruled out.
    """

    switches: int = 1
    switching: tuple[str, ...] = ()
    surprise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.switches < 0 or not 0 <= self.surprise <= 1:
            raise ValueError(f"switches {self.switches}, surprise {self.surprise}: 0 up, and 0 to 1 are accepted")


@dataclasses.dataclass(frozen=True)
class MixedSearch(Search):
    """A distribution over continuous dimensions and schedules.

    Attributes:
        odds: probability of every schedule, `[B, D, M]`.
        is_high: `[B, D]`, whether the command in force is the larger of the two values.
    """

    odds: Tensor
    is_high: Tensor


class Mixed(CEM):
    """The cross-entropy method with a Gaussian for continuous and a categorical for binary dimensions.

    The categorical distribution is refitted to the elites' schedules, as in the discrete problems of de Boer et al.
    2005 (A tutorial on the cross-entropy method). The mean has the most probable schedule. Without binary dimensions it
    is `CEM`.
    """

    config: MixedConfig

    def __init__(self, config: MixedConfig) -> None:
        super().__init__(config)

    def plan(self, problem: Problem, memory: TensorRecord | None, generator: torch.Generator) -> Plan:
        switching = problem.limits.switching(self.config.switching)
        return super().plan(dataclasses.replace(problem, limits=switching), memory, generator)

    def begin(self, mean: Tensor, problem: Problem, memory: TensorRecord | None) -> Search:
        search = super().begin(self.admit(mean[:, None], problem)[:, 0], problem, memory)
        count, binary = len(schedules(mean.shape[1], self.config.switches)), problem.limits.binary
        odds = mean.new_full((len(mean), int(binary.sum()), count), 1 / count)
        return MixedSearch(search.mean, search.std, odds, _is_high(problem.last, problem.limits))

    def draw(self, search: Search, limits: ActionLimits, generator: torch.Generator) -> Tensor:
        assert isinstance(search, MixedSearch)
        drawn = super().draw(search, limits, generator)
        if not limits.any_binary:
            return drawn
        share = torch.rand(search.odds.shape[1], drawn.shape[1], generator=generator, device=generator.device)
        share = share.to(drawn).expand(len(drawn), -1, -1).contiguous()
        which = torch.searchsorted(search.odds.cumsum(-1), share).clamp_max(search.odds.shape[2] - 1)
        return _follow(drawn, which.mT, search.is_high, self._table(drawn), limits)

    def admit(self, knots: Tensor, problem: Problem) -> Tensor:
        """Within bounds, with the schedule that differs in the fewest knots."""
        knots, limits = super().admit(knots, problem), problem.limits
        if not limits.any_binary:
            return knots
        is_high = _is_high(problem.last, limits)
        return _follow(knots, self._nearest(knots, is_high, limits), is_high, self._table(knots), limits)

    def refit(self, search: Search, knots: Tensor, cost: Tensor, limits: ActionLimits) -> Search:
        assert isinstance(search, MixedSearch)
        fitted = super().refit(search, knots, cost, limits)
        if not limits.any_binary:
            return dataclasses.replace(search, mean=fitted.mean, std=fitted.std)
        best, elite = cost.topk(self.config.elites, dim=1, largest=False)
        which = self._nearest(knots, search.is_high, limits)  # [B, S, D]
        chosen = which.gather(1, elite[:, :, None].expand(-1, -1, which.shape[2]))
        weight = elite_weights(best, self.config.temperature)
        count = search.odds.shape[2]
        votes = torch.zeros_like(search.odds)
        votes.scatter_add_(2, chosen.mT, weight[:, None].expand(-1, chosen.shape[2], -1).contiguous())
        keep, alike = self.config.momentum, self.config.surprise
        odds = keep * search.odds + (1 - keep) * ((1 - alike) * votes + alike / count)
        odds = torch.where(cost.isfinite().any(1)[:, None, None], odds, search.odds)
        # Before any finite cost, the mean keeps its schedule, which is that of the last plan.
        mode = _follow(fitted.mean[:, None], odds.argmax(-1)[:, None], search.is_high, self._table(knots), limits)[:, 0]
        mean = torch.where(cost.isfinite().any(1)[:, None, None], mode, fitted.mean)
        return MixedSearch(mean, fitted.std, odds, search.is_high)

    def _table(self, knots: Tensor) -> Tensor:
        return schedules(knots.shape[-2], self.config.switches).to(knots.device)

    def _nearest(self, knots: Tensor, is_high: Tensor, limits: ActionLimits) -> Tensor:
        """The schedule `[B, S, D]` of knots `[B, S, K, A]` that differs in the fewest knots."""
        switched = _is_high(knots, limits) != is_high[:, None, None]
        signs, table = 1 - 2.0 * switched.mT, 1 - 2.0 * self._table(knots)
        return (signs @ table.T).argmax(-1)


@functools.lru_cache(maxsize=16)
def schedules(knots: int, switches: int) -> Tensor:
    """All schedules of at most `switches` changes, `[M, K]`: whether a knot differs from the command in force.

    Raises:
        UserError: if there are too many.
    """
    most = min(switches, knots)
    count = sum(math.comb(knots, changes) for changes in range(most + 1))
    if count > MOST_SCHEDULES:
        raise UserError(
            f"planner.options.switches={switches} over {knots} knots are {count:,} schedules of a binary action: at "
            f"most {MOST_SCHEDULES:,} are accepted; fewer switches or a larger action_repeat lower the number"
        )
    rows = []
    for changes in range(most + 1):
        for places in itertools.combinations(range(knots), changes):
            toggled = torch.zeros(knots, dtype=torch.long)
            toggled[list(places)] = 1
            rows.append(toggled.cumsum(0) % 2 == 1)
    return torch.stack(rows)


def _is_high(values: Tensor, limits: ActionLimits) -> Tensor:
    """Whether the binary dimensions of `values [..., A]` are nearer to their larger value, `[..., D]`."""
    return (values >= (limits.low + limits.high) / 2)[..., limits.binary]


def _follow(knots: Tensor, which: Tensor, is_high: Tensor, table: Tensor, limits: ActionLimits) -> Tensor:
    """Knots `[B, S, K, A]` whose binary dimensions follow the schedules `which [B, S, D]`."""
    high = table[which].mT != is_high[:, None, None]  # [B, S, K, D]
    followed = knots.clone()
    followed[..., limits.binary] = torch.where(high, limits.high[limits.binary], limits.low[limits.binary])
    return followed


ENTRY = OptimiserEntry(Mixed, MixedConfig)
