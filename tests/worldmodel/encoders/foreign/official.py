"""Small random networks in the layouts in which the official weights are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldmodel.encoders.vit import VisionTransformer

# Ours to Meta's names of a block's parts.
PARTS = {"attention.qkv": "attn.qkv", "attention.out": "attn.proj", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}


def randomise(module: torch.nn.Module, seed: int = 0, spread: float = 0.1) -> None:
    """Move every parameter away from where it begins, since constant norms and biases would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))


def meta_names(network: VisionTransformer) -> dict[str, Tensor]:
    """The encoder of a `.pt` of V-JEPA 2 or, for one with `still_tubelet`, of 2.1, with the prefix of its wrappers."""
    config, later = network.config, network.config.still_tubelet
    tensors: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        for our, part in PARTS.items():
            name = name.replace(our, part)
        tubelets = {"tubelet.weight": (2, "patch_embed"), "still.weight": (1, "patch_embed_img")}
        if name in tubelets:
            frames, theirs = tubelets[name]
            side = config.patch_size
            tensors[f"{theirs}.proj.weight"] = value.reshape(-1, frames, side, side, 3).permute(0, 4, 1, 2, 3).clone()
        elif name in ("tubelet.bias", "still.bias"):
            theirs, modality = ("patch_embed", "video") if name[0] == "t" else ("patch_embed_img", "img")
            shift = torch.linspace(-1, 1, len(value)) if later else torch.zeros_like(value)
            tensors[f"{theirs}.proj.bias"] = value - shift
            if later:
                tensors[f"{modality}_mod_embed"] = shift[None, None].clone()
        elif name.startswith("norm.") and later:
            tensors[name.replace("norm.", "norms_block.3.")] = value
            for level in range(3):  # norms of the levels of deep supervision, which features do not use
                tensors[name.replace("norm.", f"norms_block.{level}.")] = torch.full_like(value, 9.0)
        else:
            tensors[name] = value
    if not later:
        tensors["pos_embed"] = torch.randn(1, 7, config.width)  # is in the files, and is not used
    return {f"module.backbone.{name}": value for name, value in tensors.items()}


def write_pt(path: Path, network: VisionTransformer, name: str = "target_encoder", **others: Any) -> None:
    """A `.pt` as Meta publishes it: networks by name, and what training needs."""
    decoy = {key: torch.zeros_like(value) for key, value in meta_names(network).items()}
    content = {"encoder": decoy, "predictor": {"module.backbone.mask_tokens.0": torch.zeros(1, 1, 4)}, "epoch": 3}
    torch.save({**content, name: meta_names(network), **others}, path)
