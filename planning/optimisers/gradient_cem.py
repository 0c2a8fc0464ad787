"""CEM whose elites are refined by gradient descent."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.optimisers.base import OptimiserEntry
from planning.optimisers.cem import CEM, CEMConfig
from planning.optimisers.descent import Descent
from planning.optimisers.judge import Judge


@dataclasses.dataclass(frozen=True)
class GradientCEMConfig(CEMConfig):
    """Options of `GradientCEM`, beside those of `CEMConfig`.

    Attributes:
        gradient_steps: steps of gradient descent that every elite takes in every iteration.
        learning_rate: length of such a step, as a fraction of half the action range.
    """

    gradient_steps: int = 2
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (1 <= self.gradient_steps <= 100 and 0 < self.learning_rate < math.inf):
            raise ValueError(
                f"gradient_steps {self.gradient_steps}, learning_rate {self.learning_rate}: 1 to 100, and a finite "
                "number above 0 are accepted"
            )


class GradientCEM(CEM):
    """CEM that takes steps of gradient descent between sampling and refitting (Bharadhwaj et al. 2020).

    See arXiv 2004.08763. The paper moves all samples. Here only the elites move, which costs less, and one that became
    worse is put back. Each iteration evaluates `elites * (gradient_steps + 1)` sequences beside its samples.
    """

    config: GradientCEMConfig

    def __init__(self, config: GradientCEMConfig) -> None:
        super().__init__(config)

    @property
    def evaluations(self) -> int:
        config = self.config
        return super().evaluations + config.iterations * config.elites * (config.gradient_steps + 1)

    @property
    def needs_gradient(self) -> bool:
        return True

    def improve(self, knots: Tensor, cost: Tensor, judge: Judge, limits: ActionLimits) -> tuple[Tensor, Tensor]:
        """The candidates, with the elites in the places to which descent led them if they are better there."""
        before, elite = cost.topk(self.config.elites, dim=1, largest=False)
        places = elite[:, :, None, None].expand(-1, -1, *knots.shape[2:])
        start = points = knots.gather(1, places)
        descent = Descent.begin(points)
        for _ in range(self.config.gradient_steps):
            _, slope = judge.gradient(points)
            points, descent = descent.step(points, slope, self.config.learning_rate, limits)
        after = judge.cost(points)
        is_better = after < before
        refined = torch.where(is_better[:, :, None, None], points, start)
        return knots.scatter(1, places, refined), cost.scatter(1, elite, torch.minimum(after, before))


ENTRY = OptimiserEntry(GradientCEM, GradientCEMConfig)
