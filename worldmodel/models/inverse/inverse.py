"""An inverse-dynamics head of a world model: actions that lead from a latent to a goal.

It is trained after everything else is frozen (`worldmodel.inverse`). It has its own checkpoint (`kind: inverse`), which
holds the hash of its world model, because the latents of another model have another meaning. It serves a planner as a
source of candidates, and an evaluation as a baseline without a search (GC-IDM, arXiv 2605.08732; without the number of
control steps to the goal, goal-conditioned behaviour cloning).

Shapes: `B` rows, `C` control steps of a chunk of actions, `A` action dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from worldmodel.core import checkpoint
from worldmodel.core.options import from_config
from worldmodel.models.contract import WorldModel
from worldmodel.models.decoder.decoder import code_size, require_decodable
from worldmodel.models.inverse.network import InverseConfig, InverseNetwork

KIND: Final = "inverse"


class Inverse:
    """Predicts actions between latents of `model`.

    Args:
        model: the world model of the latents.
        network: the network that was trained for it.
        identity: of the checkpoint.

    Raises:
        UserError: for a model that is not `Decodable`.
    """

    def __init__(self, model: WorldModel, network: InverseNetwork, identity: str = "") -> None:
        self._decodable, self._network, self.identity = require_decodable(model), network, identity

    @property
    def chunk(self) -> int:
        """C, the number of control steps that are predicted."""
        return self._network.config.chunk

    @property
    def told_steps(self) -> bool:
        """Whether predictions depend on the number of control steps to the goal."""
        return self._network.config.told_steps

    @torch.no_grad()
    def predict(self, latents: Any, goals: Any, steps: Tensor) -> Tensor:
        """Actions `[B, C, A]` that lead from latents `[B, ...]` to goals `[B, ...]` in `steps [B]` control steps.

        They are in physical units, and need not lie within limits. Actions after `steps` mean nothing.
        """
        codes, wanted = (self._decodable.decodable(each).float() for each in (latents, goals))
        return self._network.actions(codes, wanted, steps.to(codes.device))


def save_inverse(network: InverseNetwork, folder: Path, world_model: str, provenance: Mapping[str, Any]) -> None:
    """Write the checkpoint of a head, for the world model of the hash `world_model`."""
    content = {
        "world_model": world_model,
        "inverse": dataclasses.asdict(network.config),
        "provenance": dict(provenance),
    }
    checkpoint.save(folder, KIND, content, network, half=True)


def load_inverse(folder: Path, model: WorldModel) -> Inverse:
    """The head in `folder`, for `model` and on its device.

    Raises:
        UserError: for a head that is missing, damaged, or trained for another world model.
    """
    stored = checkpoint.read_companion(
        folder,
        KIND,
        model,
        f"no inverse-dynamics head at {folder}: train one with `python -m worldmodel.inverse`",
        f"the inverse-dynamics head {folder} was trained for another world model: train one for this model with "
        "`python -m worldmodel.inverse`",
    )
    size = code_size(model)

    def build() -> InverseNetwork:
        return InverseNetwork(from_config(InverseConfig, stored.config["inverse"], KIND), size, model.spec.action.size)

    network = stored.build(build)
    assert isinstance(network, InverseNetwork)
    return Inverse(model, network.eval().requires_grad_(False).to(model.device), str(stored.config.get("digest")))
