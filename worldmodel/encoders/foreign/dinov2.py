"""`encoder_from=dinov2:PATH`: the weights of DINOv2, with and without registers (arXiv 2304.07193, 2309.16588).

PATH is one of Meta's `.pth` files, or a folder `facebook/dinov2-*` of Hugging Face.

Shapes: `B` images, `H, W` their height and width, `N` tokens of an image, `D` width, `R` registers.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.core.errors import UserError
from worldmodel.encoders.attention import Block
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

_NORM_EPSILON: Final = 1e-6
_RESOLUTION: Final = 224  # 16 x 16 patches of 14 pixels, which its evaluations and its image processor have
_HEAD_WIDTH: Final = 64  # of all sizes; a `.pth` file does not say how many heads there are
_TEACHER: Final = "teacher"  # the network of a training's file that is evaluated; published files have no other
# Names in Meta's files, and those in Hugging Face's.
_META: Final = {
    r"(cls_token|register_tokens)": r"embeddings.\1",
    r"pos_embed": "embeddings.position_embeddings",
    r"patch_embed\.proj\.(.+)": r"embeddings.patch_embeddings.projection.\1",
    r"norm\.(.+)": r"layernorm.\1",
    # Blocks are numbered, or in numbered groups.
    r"blocks\.(?:\d+\.)?(\d+)\.(.+)": r"encoder.layer.\1.\2",
}
_META_PARTS: Final = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
}
_PREFIXES: Final = ("dinov2.", "dinov2_with_registers.", "")
# Names of a block's parts in Hugging Face's files, and ours.
_PARTS: Final = {
    "encoder.layer.": "blocks.",
    "attention.output.dense": "attention.out",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "mlp.weights_in": "mlp.inward",
    "mlp.weights_out": "mlp.outward",
    "layernorm": "norm",
}


@dataclasses.dataclass(frozen=True)
class Dinov2Config(ForeignConfig):
    """Shape of the network.

    Attributes:
        width: size of a token.
        depth: transformer blocks.
        heads: attention heads.
        hidden_width: hidden size of a block's MLP.
        gated: whether the MLP is a SwiGLU, as in ViT-g.
        position_side: rows and columns of the learned position embeddings, which are resized to the grid of an image.
        registers: tokens beside the class token that belong to no patch, R.
    """

    kind = "dinov2"
    patch_size: int = 14
    resolution: int = _RESOLUTION
    width: int = 384
    depth: int = 12
    heads: int = 6
    hidden_width: int = 1536
    gated: bool = False
    position_side: int = 37
    registers: int = dataclasses.field(default=0, metadata={"least": 0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of the heads ({self.heads})")


class Swiglu(nn.Module):
    """The gated MLP W_out (silu(a) b) with (a, b) = W_in x (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inward, self.outward = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[..., D]` → `[..., D]`."""
        gate, value = self.inward(tokens).chunk(2, dim=-1)
        return self.outward(F.silu(gate) * value)


class Dinov2Network(nn.Module):
    """Patches, a class token and registers → blocks → layer norm → the patches' tokens.

    The scale of every branch (LayerScale) is part of the branch's last matrix.
    """

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.config = config
        self._grid = (config.position_side, config.position_side)  # that of `positions`
        self.patch = nn.Linear(3 * config.patch_size**2, config.width)
        self.first = nn.Parameter(torch.zeros(1 + config.registers, config.width))
        self.positions = nn.Parameter(torch.zeros(config.position_side**2, config.width))
        ratio = config.hidden_width / config.width
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, ratio, norm_epsilon=_NORM_EPSILON) for _ in range(config.depth)
        )
        if config.gated:
            for block in self.blocks:
                block.mlp = Swiglu(config.width, config.hidden_width)
        self.norm = nn.LayerNorm(config.width, _NORM_EPSILON)

    def encode_frames(self, images: Tensor) -> Tensor:
        """Normalised images `[B, H, W, 3]` → tokens of the patches `[B, N, D]`, row by row."""
        side = self.config.patch_size
        patches = rearrange(images, "b (y p) (x q) c -> b (y x) (p q c)", p=side, q=side)
        embedded = self.patch(patches)
        places = self._positions(images.shape[1] // side, images.shape[2] // side).to(embedded.dtype)
        first = self.first.to(embedded.dtype).expand(images.shape[0], -1, -1)
        tokens = torch.cat([first, embedded + places], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, len(self.first) :]

    def fitted(self, rows: int, columns: int) -> Dinov2Network:
        """The same network for images of one grid only. It shares all weights but the positions, which are resized."""
        fitted = copy.copy(self)
        fitted._grid, fitted._parameters = (rows, columns), dict(self._parameters)
        fitted.positions = nn.Parameter(self._positions(rows, columns).detach(), requires_grad=False)
        return fitted

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The learned positions `[N, D]`, resized to the grid of an image."""
        side = self.config.position_side
        if (rows, columns) == self._grid:
            return self.positions
        plane = self.positions.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        # The models with registers were trained with antialiasing, the others without.
        smooth = self.config.registers > 0
        resized = F.interpolate(plane, (rows, columns), mode="bicubic", align_corners=False, antialias=smooth)
        return resized[0].flatten(1).T


class Dinov2(ForeignEncoder):
    """The patches' tokens of DINOv2 after the last norm (`x_norm_patchtokens` of the official code)."""

    config: Dinov2Config
    resize = "bicubic"

    @classmethod
    def read(cls, reference: str, resolution: int | None) -> Self:
        """See `ForeignEncoder.read`."""
        path = find(reference)
        if path.is_file():
            content = read_pt(path)
            flat = {name: value for name, value in content.items() if isinstance(value, Tensor)}
            whole = content if _TEACHER in content else {_TEACHER: flat}
            tensors = _renamed(_from_meta(network_of(whole, (_TEACHER,), path)))
            heads = max(1, tensors["first"].shape[-1] // _HEAD_WIDTH) if "first" in tensors else 1
        else:
            values, file = read_config(path, "dinov2"), path / "config.json"
            require_plain(values, {"hidden_act": "gelu", "qkv_bias": True, "layer_norm_eps": _NORM_EPSILON}, file)
            tensors = _renamed(read_folder(path, _PREFIXES))
            heads = whole_number(values, "num_attention_heads", file)
        config = _shape_of(tensors, heads, path, resolution)
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            network = Dinov2Network(config)
        network.load_state_dict(require_fit(tensors, network, path), assign=True)
        return cls._made(config, network, path)


def _shape_of(tensors: Mapping[str, Tensor], heads: int, path: Path, resolution: int | None) -> Dinov2Config:
    """The shape of the network, read from its tensors."""
    needed = ("patch.weight", "positions", "first")
    missing = [name for name in needed if name not in tensors]
    hidden = tensors.get("blocks.0.mlp.0.weight", tensors.get("blocks.0.mlp.outward.weight"))
    if missing or hidden is None or hidden.ndim != 2:
        raise UserError(f"{path} holds no DINOv2: it has no patches, positions or blocks")
    gated = "blocks.0.mlp.outward.weight" in tensors
    patch = math.isqrt(tensors["patch.weight"].shape[-1] // 3)
    try:
        return Dinov2Config(
            patch_size=patch,
            resolution=resolution or _RESOLUTION // patch * patch,
            width=tensors["first"].shape[-1],
            depth=len({found[1] for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}),
            heads=heads,
            hidden_width=hidden.shape[-1] if gated else len(hidden),
            gated=gated,
            position_side=math.isqrt(len(tensors["positions"])),
            registers=len(tensors["first"]) - 1,
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _from_meta(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a `.pth` file under Hugging Face's names."""
    theirs = {}
    for name, value in tensors.items():
        for pattern, other in _META.items():
            if found := re.fullmatch(pattern, name):
                renamed = found.expand(other)
                for part, their in _META_PARTS.items():
                    renamed = renamed.replace(part, their)
                theirs[renamed] = value
    return theirs


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names, with the class token's position and the branches' scales in their places."""
    wanted = ("embeddings.", "encoder.", "layernorm.")
    theirs = {name: value for name, value in tensors.items() if name.startswith(wanted)}
    theirs = with_joined_heads(theirs, "attention.attention", "attention.qkv")
    ours: dict[str, Tensor] = {}
    for name, value in theirs.items():
        if name.startswith("embeddings.") or ".layer_scale" in name:
            continue
        for part, our in _PARTS.items():
            name = name.replace(part, our)
        ours[name] = value
    for name, scale in theirs.items():
        found = re.fullmatch(r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", name)
        if found is not None:
            last = ("attention.out",) if found[2] == "1" else ("mlp.2", "mlp.outward")
            for stem in (f"blocks.{found[1]}.{part}" for part in last):
                if f"{stem}.weight" in ours and f"{stem}.bias" in ours:
                    ours[f"{stem}.weight"] = ours[f"{stem}.weight"].float() * scale.float()[:, None]
                    ours[f"{stem}.bias"] = ours[f"{stem}.bias"].float() * scale.float()
    return ours | _embeddings(theirs)


def _embeddings(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Patches, positions and first tokens, as far as they are there."""
    ours: dict[str, Tensor] = {}
    patch = theirs.get("embeddings.patch_embeddings.projection.weight")
    if patch is not None and patch.ndim == 4:
        ours["patch.weight"] = patch.permute(0, 2, 3, 1).flatten(1)
    bias = theirs.get("embeddings.patch_embeddings.projection.bias")
    if bias is not None:
        ours["patch.bias"] = bias
    positions, token = theirs.get("embeddings.position_embeddings"), theirs.get("embeddings.cls_token")
    if positions is not None and token is not None and positions.ndim == token.ndim == 3:
        ours["positions"] = positions[0, 1:]
        first = [token[0].float() + positions[0, :1].float()]
        registers = theirs.get("embeddings.register_tokens")
        ours["first"] = torch.cat(first if registers is None else [*first, registers[0].float()])
    return ours
