"""Candidates that a planner evaluates beside its own.

Shapes, as in `planning.types`: `B` plans, `N` proposals for each, `C` control steps of a remembered or predicted
chunk of actions, `H` control steps ahead, `A` action dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.types import Propose, Proposer

OWN: Final = "auto"  # as a folder: that of the checkpoint's own head


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """Options of the proposals.

    Attributes:
        memory: folder of a memory that `planning.remember` has written, or None.
        inverse: folder of an inverse-dynamics head that `worldmodel.inverse` has written, `auto` for the one of the
            checkpoint, if there is one, or None.
        share: largest share of the samples that proposals replace, in the first round of every plan.
    """

    memory: str | None = None
    inverse: str | None = None
    share: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share {self.share} must be above 0 and at most 1")


NO_PROPOSALS: Final = ProposalConfig()


class Proposals:
    """The proposals of several sources, a `Proposer`. They share the places among the samples evenly.

    Args:
        sources: what proposes.
        share: largest share of the samples that they replace.
    """

    def __init__(self, sources: Sequence[Proposer], share: float) -> None:
        self._sources, self._share = tuple(sources), share

    @property
    def identity(self) -> str:
        """See `Proposer.identity`."""
        return " ".join([f"{self._share:g}", *(source.identity for source in self._sources)])

    def toward(self, latents: Sequence[Any], goals: Sequence[Any], limits: ActionLimits, horizon: int) -> Propose:
        """See `Proposer.toward`."""
        each = [source.toward(latents, goals, limits, horizon) for source in self._sources]

        def propose(most: int, generator: torch.Generator) -> Tensor:
            places = max(int(self._share * most) // len(each), 1)
            return torch.cat([one(places, generator) for one in each], dim=1)[:, :most]

        return propose


def fit_to_horizon(chunks: Tensor, horizon: int, limits: ActionLimits) -> Tensor:
    """Actions `[N, H, A]` of chunks `[N, C, A]`, cut or continued with rest."""
    if chunks.shape[1] >= horizon:
        return chunks[:, :horizon]
    rest = limits.rest(chunks[:, -1:]).expand(-1, horizon - chunks.shape[1], -1)
    return torch.cat([chunks, rest], dim=1)
