"""Actions that an inverse-dynamics head predicts, as candidates of a planner.

Shapes: `B` plans, `N` proposals for each, `H` control steps ahead, `A` action dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.policies.proposals import fit_to_horizon
from planning.types import ActionHead, Propose

# Nobody knows how many control steps lie before a goal. Guesses reach from one to this many horizons.
_FARTHEST: Final = 2.5


class Predicted:
    """Proposes what `head` predicts for every guess of the number of control steps to go, as a `Proposer`.

    Args:
        head: the inverse-dynamics head.
    """

    def __init__(self, head: ActionHead) -> None:
        self._head, self.identity = head, head.identity

    def toward(self, latents: Sequence[Any], goals: Sequence[Any], limits: ActionLimits, horizon: int) -> Propose:
        """See `Proposer.toward`."""

        def propose(most: int, generator: torch.Generator) -> Tensor:
            steps = torch.linspace(1, _FARTHEST * horizon, most)
            each = []
            # One plan at a time, as everywhere, so that no plan depends on the others.
            for latent, goal in zip(latents, goals, strict=True):
                here, there = (known.map(lambda part: part.expand(most, *part.shape[1:])) for known in (latent, goal))
                each.append(fit_to_horizon(self._head.predict(here, there, steps), horizon, limits))
            return torch.stack(each)

        return propose
