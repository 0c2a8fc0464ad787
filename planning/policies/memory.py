"""Remembered actions: what was done in the recorded moments that are most like the present one.

A memory belongs to one world model. It holds latents of recorded moments, and the actions that followed each. A planner
that samples evaluates these actions beside its own candidates. Recorded actions contain what noise seldom draws, such
as a way around an object followed by a push. `planning.remember` makes a memory.

Shapes: `M` moments, `C` control steps of the actions that followed each, `A` action dimensions, `B` plans, `N`
proposals for each, `H` control steps ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from planning.actions.limits import ActionLimits
from planning.policies.proposals import fit_to_horizon
from planning.types import Model, Propose
from worldmodel.core import checkpoint
from worldmodel.core.tensor_record import SEPARATOR, TensorRecord

KIND: Final = "memory"
MOST_MOMENTS: Final = 200_000
MOST_CHUNK: Final = 1_000  # control steps


class Bank(nn.Module):
    """The tensors of a memory: actions `[M, C, A]`, and every tensor `[M, ...]` of the latents."""

    actions: Tensor

    def __init__(self, actions: Tensor, latents: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("actions", actions)
        for name, value in latents.items():
            self.register_buffer(f"latent{SEPARATOR}{name}", value)

    def latents(self, like: TensorRecord) -> Any:
        """The latents, as records of the same class as `like`."""
        return like.with_tensors({name.partition(SEPARATOR)[2]: value for name, value in self.named_buffers()})


class Remembered:
    """Proposes the actions that followed the recorded moments nearest to the present one, as a `Proposer`.

    Nearness is the model's own distance between latents.

    Args:
        model: the world model of the latents.
        bank: the memory.
        like: one latent of the model, of which only the structure is used.
        identity: of the memory.
    """

    def __init__(self, model: Model, bank: Bank, like: TensorRecord, identity: str) -> None:
        self._model, self._actions, self._latents = model, bank.actions, bank.latents(like)
        self.identity = identity

    @torch.no_grad()
    def nearest(self, latent: Any, most: int) -> Tensor:
        """Indices `[N]` of the moments nearest to `latent [1, ...]`, the nearest first; at most `most`."""
        moments = len(self._actions)
        here = latent.map(lambda part: part.expand(moments, *part.shape[1:]))
        distance = self._model.distance(here, self._latents)
        distance = torch.where(distance.isfinite(), distance, torch.inf)
        return distance.topk(min(most, moments), largest=False).indices

    def toward(self, latents: Sequence[Any], goals: Sequence[Any], limits: ActionLimits, horizon: int) -> Propose:
        """See `Proposer.toward`. Goals make no difference."""

        def propose(most: int, generator: torch.Generator) -> Tensor:
            chunks = [self._actions[self.nearest(compact_of(self._model, latent), most)] for latent in latents]
            return torch.stack([fit_to_horizon(chunk, horizon, limits) for chunk in chunks])

        return propose


def compact_of(model: Any, latent: Any) -> Any:
    """What `model.distance` needs of a latent, which is all of it for a model that does not say."""
    compact = getattr(model, "compact", None)
    return latent if compact is None else compact(latent)


def save_memory(folder: Path, bank: Bank, world_model: str, provenance: Mapping[str, Any]) -> None:
    """Write a memory. `world_model` is the hash of its model (`worldmodel.core.checkpoint.weights_hash`)."""
    moments, chunk, size = bank.actions.shape
    shape = {"moments": moments, "chunk": chunk, "action_size": size}
    checkpoint.save(
        folder, KIND, {"world_model": world_model, **shape, "provenance": dict(provenance)}, bank, half=True
    )


def load_memory(folder: Path, model: Any, like: TensorRecord, device: torch.device) -> Remembered:
    """The memory in `folder`, for `model`.

    Args:
        folder: what `save_memory` has written.
        model: the world model.
        like: one of its latents `[1, ...]`, as it is compared.
        device: device of the model.

    Raises:
        UserError: for a memory that is missing, damaged, or of another model.
    """
    stored = checkpoint.read_companion(
        folder,
        KIND,
        model,
        f"no memory at {folder}: make one with `python -m planning.remember`",
        f"the memory {folder} was made with another world model: make one for this model with "
        "`python -m planning.remember`",
    )

    def build() -> Bank:
        moments, chunk, size = (int(stored.config[name]) for name in ("moments", "chunk", "action_size"))
        if not (1 <= moments <= MOST_MOMENTS and 1 <= chunk <= MOST_CHUNK and size == model.spec.action.size):
            raise ValueError(f"{moments} moments with chunks of {chunk} steps of {size} actions")
        parts = {name: torch.zeros(moments, *value.shape[1:]) for name, value in like.tensors().items()}
        return Bank(torch.zeros(moments, chunk, size), parts)

    bank = stored.build(build)
    assert isinstance(bank, Bank)
    return Remembered(model, bank.to(device), like, str(stored.config.get("digest")))
