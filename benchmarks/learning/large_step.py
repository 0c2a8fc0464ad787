"""One step of V-JEPA with a large encoder: its time, the peak of its memory, and what `--dry-run` computes.

python -m benchmarks.learning.large_step                                  # ViT-B/16, one clip of 16 x 224 x 224
python -m benchmarks.learning.large_step encoder=vit_small frames=8 checkpointing=false
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time

import numpy as np
import torch

from worldmodel.core.configs import read_choice
from worldmodel.core.options import from_config
from worldmodel.encoders.jepa.cost import costs
from worldmodel.encoders.jepa.masks import MultiBlock
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.vit import EncoderConfig

# The predictor, the masks and the size of images of V-JEPA's ViT-L/16.
PREDICTOR = JepaConfig(predictor_width=384, predictor_depth=12, predictor_heads=12, targets="layer_norm")
MASKS = (MultiBlock(blocks=8, spatial_scale=0.15), MultiBlock(blocks=2, spatial_scale=0.7))
SIZE = 224


def main() -> None:
    """Make one step in bf16 with AdamW, and print what it took."""
    given = dict(argument.split("=") for argument in sys.argv[1:])
    name, frames, batch = given.get("encoder", "vit_base"), int(given.get("frames", 16)), int(given.get("batch", 1))
    config = from_config(EncoderConfig, read_choice("encoder", name), "encoder")
    config = dataclasses.replace(config, checkpointing=given.get("checkpointing", "true") == "true")
    layers, grid = frames // config.tubelet_frames, config.grid(SIZE, SIZE)
    masks = [mask(batch, layers, grid, np.random.default_rng(0)) for mask in MASKS]
    shares = [mask.visible.shape[1] / (layers * grid.tokens) for mask in masks]
    for part in costs(config, PREDICTOR, batch, layers, grid, shares):
        memory = (part.parameter_bytes + part.activation_bytes) / 1e9
        print(f"{part.name}: {part.parameters / 1e6:.1f} M parameters, {part.operations / 1e9:.0f} G, {memory:.2f} GB")
    jepa = Jepa(config, PREDICTOR).train()
    optimiser = torch.optim.AdamW([p for p in jepa.parameters() if p.requires_grad])
    clips = torch.randint(0, 256, (batch, frames, SIZE, SIZE, 3), dtype=torch.uint8)
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = jepa(clips, masks)["loss"]
    loss.backward()
    optimiser.step()
    jepa.update_target(0.999)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{name}, {batch} x {frames} x {SIZE}²: {time.perf_counter() - started:.0f} s, peak {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
