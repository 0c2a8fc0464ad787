"""`encoder_from=vjepa2:PATH`: the official weights of V-JEPA 2, 2.1 and 2-AC (arXiv 2506.09985, 2603.14482).

PATH is one of Meta's `.pt` files, or a folder `facebook/vjepa2-*` of Hugging Face. The network is `VisionTransformer`
with Meta's rotary positions.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import torch
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.encoders.foreign.base import ForeignConfig, ForeignEncoder
from worldmodel.encoders.foreign.files import (
    find,
    network_of,
    read_config,
    read_folder,
    read_pt,
    require_fit,
    require_plain,
    whole_number,
    with_joined_heads,
)
from worldmodel.encoders.positions import REPEATED, TILED
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer

# The networks of a `.pt` file, best first. The evaluations of the papers use the slow copies of the encoder. Files of
# distilled 2.1 models have `ema_encoder`, and V-JEPA 2-AC has the encoder that it was trained on.
_NETWORKS: Final = ("ema_encoder", "target_encoder", "encoder")
# Attention heads by width. A `.pt` file does not say how many there are.
_HEADS: Final = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}
_NORM_EPSILON: Final = 1e-6
# V-JEPA 2.1 stretches positions to the grid of images of 256 pixels, whatever size it sees.
_TRAINED_SIDE: Final = 256
# Meta's names of a block's parts, and ours.
_PARTS: Final = {"attn.qkv": "attention.qkv", "attn.proj": "attention.out", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}


@dataclasses.dataclass(frozen=True)
class Vjepa2Config(ForeignConfig):
    """Shape of the network. The attributes are those of `EncoderConfig`.

    Attributes:
        hidden_width: hidden size of a block's MLP.
    """

    kind = "vjepa2"
    tubelet_frames: int = 2
    width: int = 1024
    depth: int = 24
    heads: int = 16
    hidden_width: int = 4096
    positions: str = TILED
    position_grid: int = dataclasses.field(default=0, metadata={"least": 0})
    still_tubelet: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.shape()

    def shape(self) -> EncoderConfig:
        """The shape of the network. Raises ValueError for one that cannot be."""
        names = {field.name for field in dataclasses.fields(EncoderConfig)}
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name in names}
        return EncoderConfig(**values, mlp_ratio=self.hidden_width / self.width, norm_epsilon=_NORM_EPSILON)


class Vjepa2(ForeignEncoder):
    """The encoder of V-JEPA 2. A still image is repeated over a tubelet, and has a tubelet of its own in 2.1."""

    config: Vjepa2Config
    resize = "bilinear"

    @classmethod
    def read(cls, reference: str, resolution: int | None) -> Self:
        """See `ForeignEncoder.read`."""
        path = find(reference)
        heads: int | None = None
        if path.is_dir():
            values, file = read_config(path, "vjepa2"), path / "config.json"
            tensors = _from_hugging_face(read_folder(path, ("encoder.", "vjepa2.encoder.")))
            heads, trained = (whole_number(values, name, file) for name in ("num_attention_heads", "crop_size"))
            require_plain(values, {"hidden_act": "gelu", "qkv_bias": True, "layer_norm_eps": _NORM_EPSILON}, file)
        else:
            tensors = network_of(read_pt(path), _NETWORKS, path)
            trained = 384 if _is_2_1(tensors) else _TRAINED_SIDE
        config = _shape_of(tensors, path, heads, resolution or trained)
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            network = VisionTransformer(config.shape())
        ours = require_fit(_renamed(tensors), network, path)
        network.load_state_dict(ours, assign=True)
        return cls._made(config, network, path)

    @torch.no_grad()
    def encode_clips(self, clips: Tensor) -> Tensor:
        """Clips, uint8 `[B, T, H, W, 3]`, → tokens `[B, N, D]` in (t, y, x) order. T is a multiple of the tubelet's."""
        prepared = self.prepare(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return self.network(prepared)

    @property
    def tubelet_frames(self) -> int:
        """See `Encoder.tubelet_frames`."""
        return self.config.tubelet_frames

    def encode_tubelets(self, clips: Tensor) -> Tensor:
        """See `Encoder.encode_tubelets`."""
        return self.encode_clips(clips).unflatten(1, (clips.shape[1] // self.config.tubelet_frames, -1))


def _is_2_1(tensors: Mapping[str, Tensor]) -> bool:
    return "patch_embed_img.proj.weight" in tensors


def _shape_of(tensors: Mapping[str, Tensor], path: Path, heads: int | None, resolution: int) -> Vjepa2Config:
    """The shape of the network in Meta's names, read from its tensors."""
    embedding, hidden = tensors.get("patch_embed.proj.weight"), tensors.get("blocks.0.mlp.fc1.weight")
    if embedding is None or hidden is None or embedding.ndim != 5 or hidden.ndim != 2:
        raise UserError(f"{path} holds no encoder of V-JEPA 2: it has no tubelets, or no blocks")
    width, _, frames, patch, _ = embedding.shape
    if heads is None and width not in _HEADS:
        raise UserError(f"{path} has tokens of width {width}: expected one of {', '.join(map(str, _HEADS))}")
    depth = len({found[1] for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))})
    later = _is_2_1(tensors)
    try:
        return Vjepa2Config(
            patch_size=patch,
            resolution=resolution,
            tubelet_frames=frames,
            width=width,
            depth=depth,
            heads=heads or _HEADS[width],
            hidden_width=len(hidden),
            positions=REPEATED if later else TILED,
            position_grid=_TRAINED_SIDE // patch if later else 0,
            still_tubelet=later,
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names.

    V-JEPA 2.1 has a norm for each of several layers, of which the last is the output's, and adds a vector to all tokens
    of a video, and another to those of an image. The vectors become part of the tubelets' biases.
    """
    norms = [int(found[1]) for name in tensors if (found := re.match(r"norms_block\.(\d+)\.", name))]
    ours: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in ("pos_embed", "img_mod_embed", "video_mod_embed"):
            continue  # rotary positions take the place of `pos_embed`, which is in the files all the same
        if name.startswith("norms_block."):
            if name.startswith(f"norms_block.{max(norms)}."):
                ours["norm." + name.rpartition(".")[2]] = value
            continue
        for theirs, tubelet, modality in (
            ("patch_embed.proj.", "tubelet.", "video_mod_embed"),
            ("patch_embed_img.proj.", "still.", "img_mod_embed"),
        ):
            if name == theirs + "weight" and value.ndim == 5:
                ours[tubelet + "weight"] = value.permute(0, 2, 3, 4, 1).flatten(1)
                break
            if name == theirs + "bias":
                ours[tubelet + "bias"] = value + tensors[modality].flatten() if modality in tensors else value
                break
        else:
            for part, our in _PARTS.items():
                name = name.replace(part, our)
            ours[name] = value
    return ours


def _from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under Meta's names. Query, key and value become one matrix."""
    theirs: dict[str, Tensor] = {}
    for name, value in with_joined_heads(tensors, "attention", "attn.qkv").items():
        name = name.replace("embeddings.patch_embeddings.", "patch_embed.").replace("layer.", "blocks.", 1)
        theirs[name.replace("layernorm.", "norm.", 1).replace(".attention.proj.", ".attn.proj.")] = value
    return theirs
