"""The improved cross-entropy method, iCEM."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from planning.actions.knots import to_knots
from planning.actions.limits import ActionLimits
from planning.optimisers.base import OptimiserEntry, Search
from planning.optimisers.cem import CEM, CEMConfig
from planning.optimisers.judge import Judge
from planning.optimisers.warm_start import WarmStart, remaining
from planning.types import Problem
from worldmodel.core.tensor_record import TensorRecord


@dataclasses.dataclass(frozen=True)
class ICEMConfig(CEMConfig):
    """Options of `ICEM`, beside those of `CEMConfig`, some of which have other defaults.

    Attributes:
        kept: share of the elites that are candidates again in the next iteration, and in the next plan.
        decay: factor by which the number of samples falls from each iteration to the next, at least 1. Later
            iterations draw from a narrower distribution and need fewer. Twice the elites are always drawn.
    """

    result: str = "best"
    action_repeat: int = 1
    temperature: float = math.inf
    initial_std: float = 0.5
    colour: float = 2.0
    kept: float = 0.3
    decay: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.kept <= 1 and 1 <= self.decay < math.inf):
            raise ValueError(f"kept {self.kept}, decay {self.decay}: 0 to 1, and a number from 1 up are accepted")


@dataclasses.dataclass(frozen=True)
class KeptSearch(Search):
    """A distribution with the elites `[B, E, K, A]` that are kept, None before there are any."""

    elites: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class KeptWarmStart(WarmStart):
    """A warm start with the kept elites `[B, E, H, A]` of the last plan."""

    elites: Tensor


class ICEM(CEM):
    """CEM with coloured noise, kept elites, and fewer samples in later iterations (Pinneri et al. 2020).

    See arXiv 2008.06389. Noise with a falling spectrum moves in one direction for longer. A share of the elites
    returns as candidates in the next iteration, and, shifted by the control steps that passed, in the next plan.
    Iteration i draws `max(samples / decay^i, 2 elites)` candidates. The mean is a candidate of every iteration,
    where the paper adds it to the last one, and the result is the best candidate seen.
    """

    config: ICEMConfig

    def __init__(self, config: ICEMConfig) -> None:
        super().__init__(config)

    def counts(self) -> Sequence[int]:
        config = self.config
        fewer = [round(config.samples / config.decay**i) for i in range(config.iterations)]
        return [min(config.samples, max(count, 2 * config.elites)) for count in fewer]

    def begin(self, mean: Tensor, problem: Problem, memory: TensorRecord | None) -> Search:
        search, elites = super().begin(mean, problem, memory), None
        if memory is not None:
            assert isinstance(memory, KeptWarmStart), "memory is given back to who made it"
            each = [remaining(part, memory.step, problem) for part in memory.elites.unbind(1)]
            if each:
                elites = to_knots(torch.stack(each, dim=1), self.config.action_repeat, problem.step)
        return KeptSearch(search.mean, search.std, elites)

    def kept(self, search: Search) -> Tensor | None:
        assert isinstance(search, KeptSearch)
        return search.elites

    def refit(self, search: Search, knots: Tensor, cost: Tensor, limits: ActionLimits) -> Search:
        fitted = super().refit(search, knots, cost, limits)
        count = math.ceil(self.config.kept * self.config.elites)
        best = cost.topk(count, dim=1, largest=False).indices
        elites = knots.gather(1, best[:, :, None, None].expand(-1, -1, *knots.shape[2:]))
        return KeptSearch(fitted.mean, fitted.std, elites)

    def remember(self, actions: Tensor, search: Search, judge: Judge, problem: Problem) -> WarmStart:
        plain = super().remember(actions, search, judge, problem)
        kept = self.kept(search)
        assert kept is not None, "there was an iteration"
        return KeptWarmStart(plain.actions, plain.step, judge.held(kept))


ENTRY = OptimiserEntry(ICEM, ICEMConfig)
