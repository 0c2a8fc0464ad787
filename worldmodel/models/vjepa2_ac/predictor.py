"""The predictor of V-JEPA 2-AC, in the layout of its official weights (arXiv 2506.09985, section 3.2).

Frame t is a group of tokens

    [action_t, pose_t, (camera_t,) patch_t,1 ... patch_t,N]

that attend to each other and to the groups of all earlier frames. The output at patch n of frame t is that patch in
frame t + 1. Positions are rotary in (t, y, x), in the layout of V-JEPA 2. Actions, poses and cameras have a time and no
place.

Shapes: `B` sequences, `T` frames, `N` patches of a frame, `C` numbers of each, `A` numbers of an action and of a pose,
`D` width, `G` tokens of a group, `E` width of an attention head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final, Self

import torch
from torch import Tensor, nn

from worldmodel.encoders.base import Grid
from worldmodel.encoders.positions import TILED, rotary_angles, token_coordinates
from worldmodel.models.tokens.attention import CachedAttention, KeyValue
from worldmodel.models.tokens.predictor import Cache

_NORM_EPSILON: Final = 1e-6  # of all layer norms in the official code


@dataclasses.dataclass(frozen=True)
class AcConfig:
    """Shape of the predictor. The defaults are those of the official weights on a ViT-g.

    Attributes:
        width: size of a token in it, D.
        depth: transformer blocks.
        heads: attention heads.
        hidden_width: hidden size of a block's MLP.
        token_width: size of an encoder's token, C.
        action_size: numbers of an action and of a pose, A.
        extrinsics: whether every frame has a token of its camera's pose, which has A - 1 numbers.
    """

    width: int = 1024
    depth: int = 24
    heads: int = 16
    hidden_width: int = 4096
    token_width: int = 1408
    action_size: int = 7
    extrinsics: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name != "extrinsics" and getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1, got {getattr(self, field.name)}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of twice the heads ({self.heads})")
        if self.extrinsics and self.action_size < 2:
            raise ValueError(f"extrinsics need an action_size of at least 2, got {self.action_size}")

    @property
    def conditions(self) -> int:
        """Tokens of a group before its patches."""
        return 3 if self.extrinsics else 2


class AcBlock(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)), with keys and values of the past."""

    def __init__(self, config: AcConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden_width
        self.norm1, self.norm2 = nn.LayerNorm(width, _NORM_EPSILON), nn.LayerNorm(width, _NORM_EPSILON)
        self.attention = CachedAttention(width, config.heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(
        self, tokens: Tensor, bias: Tensor | None, angles: Tensor, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        """`tokens [B, T G, D]` → the same shape, and the keys and values of `past` and `tokens`."""
        attended, known = self.attention(self.norm1(tokens), bias, angles, past)
        tokens = tokens + attended
        return tokens + self.mlp(self.norm2(tokens)), known


class AcPredictor(nn.Module):
    """See the module's docstring.

    Args:
        config: its shape.
        grid: rows and columns of a frame's patches.
    """

    places: Tensor

    def __init__(self, config: AcConfig, grid: Grid) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        self.tokens_in = nn.Linear(config.token_width, config.width)
        self.actions_in = nn.Linear(config.action_size, config.width)
        self.poses_in = nn.Linear(config.action_size, config.width)
        self.cameras_in = nn.Linear(config.action_size - 1, config.width) if config.extrinsics else None
        # One by one, since a stranger's checkpoint may ask for any number of blocks, and is refused on the way.
        self.blocks = nn.ModuleList(AcBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, _NORM_EPSILON)
        self.out = nn.Linear(config.width, config.token_width)
        self.register_buffer("places", self._places(), persistent=False)

    def take(self, tensors: Mapping[str, Tensor]) -> Self:
        """Use `tensors` as weights. The module may have been made on torch's `meta` device, where nothing is stored."""
        self.load_state_dict(dict(tensors), assign=True)
        self.places = self._places()
        return self

    def cached_bytes(self, frames: int) -> int:
        """Size of the keys and values of one sequence of `frames`, in single precision [bytes]."""
        return 2 * 4 * self.config.depth * frames * len(self.places) * self.config.width

    def _places(self) -> Tensor:
        """(t, y, x) of a group's tokens within their frame, `[G, 3]`. Columns are stretched to as many as rows."""
        patches = token_coordinates(1, self.grid).float()
        patches[:, 2] *= self.grid.rows / self.grid.columns
        return torch.cat([torch.zeros(self.config.conditions, 3), patches])

    def forward(
        self,
        tokens: Tensor,
        actions: Tensor,
        poses: Tensor,
        cache: Cache | None = None,
        cameras: Tensor | None = None,
    ) -> tuple[Tensor, Cache]:
        """The frames that follow each of several frames, `[B, T, N, C]`.

        Args:
            tokens: the frames, `[B, T, N, C]`, layer-normalised.
            actions: actions that are taken after each, `[B, T, A]`.
            poses: poses of the end effector, `[B, T, A]`.
            cache: keys and values of the frames before these.
            cameras: poses of the camera, `[B, T, A - 1]`, for a predictor with `extrinsics`.

        Returns:
            The predicted frames, and the cache with these frames.
        """
        count, done = tokens.shape[1], cache.steps if cache else 0
        given = [self.actions_in(actions), self.poses_in(poses)]
        if self.cameras_in is not None:
            assert cameras is not None
            given.append(self.cameras_in(cameras))
        x = torch.cat([torch.stack(given, dim=2), self.tokens_in(tokens)], dim=2).flatten(1, 2)
        angles, bias = self._angles(done, count), self._bias(done, count, x.device)
        layers = []
        for index, block in enumerate(self.blocks):
            x, known = block(x, bias, angles, cache.layers[index] if cache else None)
            layers.append(known)
        patches = x.unflatten(1, (count, -1))[:, :, self.config.conditions :]
        return self.out(self.norm(patches)), Cache(tuple(layers), done + count)

    def _angles(self, done: int, count: int) -> Tensor:
        """Rotary angles `[1, T G, E]` of the `count` groups that follow `done`."""
        times = torch.arange(done, done + count, device=self.places.device).float()
        coordinates = self.places.repeat(count, 1)
        coordinates[:, 0] = times.repeat_interleave(len(self.places))
        return rotary_angles(coordinates, self.config.width // self.config.heads, TILED)[None]

    def _bias(self, done: int, count: int, device: torch.device) -> Tensor | None:
        """Bias `[1, T G, K]` of the attention, which hides later frames. A single frame sees the whole cache."""
        if count == 1:
            return None
        steps = torch.arange(done + count, device=device).repeat_interleave(len(self.places))
        later = steps[None] > steps[done * len(self.places) :, None]
        return torch.zeros(later.shape, device=device).masked_fill(later, -torch.inf)[None]
