"""A small decoder with random weights, for any model."""

from __future__ import annotations

from pathlib import Path

import torch

from worldmodel.core.checkpoint import weights_hash
from worldmodel.models.contract import WorldModel
from worldmodel.models.decoder.decoder import DecoderNetwork, code_size, save_decoder
from worldmodel.models.decoder.network import DecoderConfig

SMALL = DecoderConfig(patch_size=4, places=4, width=16, depth=1, hidden_width=16)


def make_network(model: WorldModel, config: DecoderConfig = SMALL, seed: int = 0) -> DecoderNetwork:
    """One whose images differ by what is decoded."""
    torch.manual_seed(seed)
    network = DecoderNetwork(model.spec.cameras, config, code_size(model))
    with torch.no_grad():
        for camera in network.cameras:
            network.of(camera).mean.uniform_(0.3, 0.7)
            network.of(camera).out.weight.normal_()
    return network.eval().requires_grad_(False)


def save_small(folder: Path, model: WorldModel) -> Path:
    """A checkpoint of one."""
    save_decoder(make_network(model), folder, weights_hash(model), {"made_by": "a test"})
    return folder
