"""The action-conditioned predictor of the tokens family, a block-causal transformer (V-JEPA 2-AC, arXiv 2506.09985).

Time is divided into blocks of `k` control steps (action blocks, as in DINO-WM, arXiv 2411.04983). Block i has one
frame, at its beginning, and is a group of tokens

    [action_i, proprio_i, token_i,1 ... token_i,N]     action_i: the k actions that are taken from there on

that attend to each other and to the groups of the `window - 1` previous blocks. The output of a token is its change
until each of the next k frames, so that every frame is predicted:

    token_i,n(j) = token_i,n + Δ_i,n,j     proprio_i(j) = own_i,j + Δ_i,j     j = 1 ... k

Proprioception can mostly be predicted from commands alone. A small network gives this prediction without the image,
own_i,j = proprio_i + f_j(proprio_i, action_i). The transformer receives it with the actions, and corrects it, for
example at a contact.

The k-th frame is the input of block i + 1. In teacher forcing it is the true frame, and in a rollout the predicted one.
With `adaln`, actions condition the norms of every transformer layer, instead of being a token.

Shapes: `B` sequences, `T` blocks, `k` control steps of a block, `H` control steps, `N` tokens of a frame over all
cameras, `C` numbers in each, `P` proprioception, `A` action, `D` width. Everything is standardised.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.encoders.vit import initialise, rotary_angles, sincos_positions
from worldmodel.models.tokens.attention import CausalBlock, FrameOrder, KeyValue

POSITIONS = ("learned", "rotary", "sincos")
TOKENS, ADALN = "tokens", "adaln"
_OCTAVES = 4
_WAVES = 1 + 2 * _OCTAVES


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Shape of the transformer.

    Attributes:
        width: size of a token in it, D.
        depth: transformer blocks.
        heads: attention heads. `width / heads` must be even.
        mlp_ratio: hidden size of a block's MLP over `width`.
        window: frames that a token attends to, its own among them.
        prediction_steps: control steps from one frame to the next, k.
        positions: position embedding of the tokens. It is `rotary` in (t, y, x), or it is `sincos` or `learned` in
            (y, x) with a learned weight of a frame's age.
        conditioning: `tokens` gives actions as tokens between those of the frames, `adaln` by adaptive layer norm.
    """

    width: int = 128
    depth: int = 3
    heads: int = 4
    mlp_ratio: float = 2.0
    window: int = 2
    prediction_steps: int = 4
    positions: str = "learned"
    conditioning: str = ADALN

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "window", "prediction_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of twice the heads ({self.heads})")
        if not self.mlp_ratio > 0:
            raise ValueError(f"mlp_ratio must be above 0, got {self.mlp_ratio}")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions '{self.positions}' is unknown: choose from {', '.join(POSITIONS)}")
        if self.conditioning not in (ADALN, TOKENS):
            raise ValueError(f"conditioning '{self.conditioning}' is unknown: choose from {ADALN}, {TOKENS}")


@dataclasses.dataclass(frozen=True)
class Moments:
    """Frames: tokens `[..., N, C]` and proprioception `[..., P]`."""

    tokens: Tensor
    proprio: Tensor

    def at(self, index: object) -> Moments:
        """The frames at `index`."""
        return Moments(self.tokens[index], self.proprio[index])  # type: ignore[index]


@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of every layer for the previous blocks, and the number of all blocks so far."""

    layers: tuple[KeyValue, ...]
    steps: int


def camera_coordinates(grids: Sequence[tuple[int, int]]) -> Tensor:
    """Integers `[N, 3]`, (camera, y, x) of every token of a frame. Tokens are ordered by camera, then row by row."""
    parts = []
    for camera, (rows, columns) in enumerate(grids):
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        parts.append(F.pad(places, (1, 0), value=camera))
    return torch.cat(parts)


class TokenPredictor(nn.Module):
    """See the module's docstring.

    Args:
        config: its shape.
        grids: rows and columns of each camera's tokens, N tokens in all.
        token_size: numbers of a token, C.
        proprio_size: proprioceptive readings, P.
        action_size: action dimensions, A.
    """

    coordinates: Tensor

    def __init__(
        self,
        config: TransformerConfig,
        grids: Sequence[tuple[int, int]],
        token_size: int,
        proprio_size: int,
        action_size: int,
    ) -> None:
        super().__init__()
        self.config = config
        width, adaptive = config.width, config.conditioning == ADALN
        places = camera_coordinates(grids)
        self.register_buffer("coordinates", places, persistent=False)
        self.tokens_in, self.proprio_in = nn.Linear(token_size, width), _mlp(_WAVES * proprio_size, width, width)
        self.foresight = _mlp(
            proprio_size + config.prediction_steps * action_size, width, config.prediction_steps * proprio_size
        )
        seen = _WAVES * (config.prediction_steps + 1) * proprio_size
        self.actions_in = _mlp(seen + config.prediction_steps * action_size, width, width)
        self.kinds = nn.Parameter(0.02 * torch.randn(2, width))  # marks proprioception and actions
        self.cameras = nn.Parameter(0.02 * torch.randn(len(grids), width))
        self.places = nn.Parameter(0.02 * torch.randn(len(places), width)) if config.positions == "learned" else None
        self.order = FrameOrder(config.window, config.heads, by_age=config.positions != "rotary")
        self.blocks = nn.ModuleList(
            CausalBlock(width, config.heads, config.mlp_ratio, adaptive) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.tokens_out = nn.Linear(width, config.prediction_steps * token_size)
        self.proprio_out = _linear(width, config.prediction_steps * proprio_size)
        self._initialise()

    def _initialise(self) -> None:
        initialise(self.blocks, self.config.depth)
        with torch.no_grad():
            for out in (self.tokens_out, self.proprio_out):
                out.weight.mul_(0.1)  # starts near "nothing changes", since long rollouts can be learned from there
            for block in self.blocks:
                assert isinstance(block, CausalBlock)
                if block.modulation is not None:
                    block.modulation.weight.zero_()

    @property
    def group(self) -> int:
        """Tokens of one block: those of its frame, one of proprioception, and one of actions unless `adaln` is used."""
        return len(self.coordinates) + (2 if self.config.conditioning == TOKENS else 1)

    def forward(self, moments: Moments, actions: Tensor, cache: Cache | None = None) -> tuple[Moments, Cache]:
        """The k frames `[B, T, k, ·]` after each of `moments [B, T, ·]` under `actions [B, T, k, A]`.

        This is teacher forcing, since block i sees the true frames up to its own. `cache` holds the blocks before them.
        """
        count, group, done = moments.proprio.shape[1], self.group, cache.steps if cache else 0
        robot = self._foresee(moments.proprio, actions)
        x, condition = self._embed(moments, robot, actions)
        # A single block attends to the whole cache. Only several blocks need a mask against later ones.
        bias = None
        kept = min(done, self.config.window - 1)
        if count > 1 or self.order.age is not None:
            steps = torch.arange(done - kept, done + count, device=x.device).repeat_interleave(group)
            bias = self.order(steps[kept * group :], steps)
        angles = self._angles(done, count, x.device) if self.config.positions == "rotary" else None
        layers = []
        for i, block in enumerate(self.blocks):
            x, known = block(x, condition, bias, angles, cache.layers[i] if cache else None)
            layers.append(known.last((self.config.window - 1) * group))
        x = self.norm(x).unflatten(1, (count, group))
        first = group - len(self.coordinates)
        changes = (
            self.tokens_out(x[:, :, first:]).float().unflatten(-1, (self.config.prediction_steps, -1)).transpose(2, 3)
        )
        turns = self.proprio_out(x[:, :, first - 1]).float().unflatten(-1, (self.config.prediction_steps, -1))
        ahead = Moments(moments.tokens[:, :, None] + changes, robot + turns)
        return ahead, Cache(tuple(layers), done + count)

    def rollout(self, start: Moments, actions: Tensor, cache: Cache | None = None) -> Moments:
        """The frames `[B, H, ·]` after each of `actions [B, H, A]` from `start [B, ·]` on, open loop.

        H need not be a multiple of k. `cache` holds the blocks before. All rows share a cache of a single row.
        """
        horizon, size = actions.shape[1], self.config.prediction_steps
        # The padding of the last block lies beyond the horizon, and the frames predicted from it are cut off again.
        padded = F.pad(actions, (0, 0, 0, -horizon % size))
        frames = []
        now = start.at((slice(None), None))
        for chunk in padded.split(size, dim=1):
            ahead, cache = self(now, chunk[:, None], cache)
            frames.append(ahead.at((slice(None), 0)))
            now = ahead.at((slice(None), slice(None), -1))
        tokens = torch.cat([frame.tokens for frame in frames], 1)[:, :horizon]
        return Moments(tokens, torch.cat([frame.proprio for frame in frames], 1)[:, :horizon])

    def _foresee(self, proprio: Tensor, actions: Tensor) -> Tensor:
        """Proprioception `[B, T, k, P]` predicted from `proprio [B, T, P]` and actions alone, without contacts."""
        changes = self.foresight(torch.cat([proprio, actions.flatten(2)], dim=-1)).float()
        return proprio[:, :, None] + changes.unflatten(-1, (self.config.prediction_steps, -1))

    def _embed(self, moments: Moments, ahead: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """The tokens of all groups `[B, T group, D]`, and for `adaln` the condition `[B, T, D]`."""
        tokens = self.tokens_in(moments.tokens) + self.cameras[self.coordinates[:, 0]]
        if self.places is not None:
            tokens = tokens + self.places
        elif self.config.positions == "sincos":
            flat = F.pad(self.coordinates[:, 1:], (1, 0))
            tokens = tokens + sincos_positions(flat, self.config.width).to(tokens.dtype)
        proprio = self.proprio_in(waves(moments.proprio))
        way = waves(torch.cat([moments.proprio[:, :, None], ahead], dim=2)).flatten(2)
        action = self.actions_in(torch.cat([way, actions.flatten(2)], dim=-1))
        robot = (proprio + self.kinds[0])[:, :, None]
        if self.config.conditioning == TOKENS:
            given = (action + self.kinds[1])[:, :, None]
            return torch.cat([given, robot, tokens], dim=2).flatten(1, 2), None
        return torch.cat([robot, tokens], dim=2).flatten(1, 2), action + proprio

    def _angles(self, done: int, count: int, device: torch.device) -> Tensor:
        """Rotary angles `[1, count group, E / 2]` of the queries and keys of the `count` blocks that follow `done`."""
        # Actions and proprioception have a time, but no position in the image.
        places = F.pad(self.coordinates[:, 1:], (0, 0, self.group - len(self.coordinates), 0))
        times = torch.arange(done, done + count, device=device).repeat_interleave(self.group)
        coordinates = torch.cat([times[:, None], places.repeat(count, 1)], dim=1)
        return rotary_angles(coordinates, self.config.width // self.config.heads)[None]


def waves(readings: Tensor) -> Tensor:
    """`[..., P]` → `[..., 9 P]`: the readings, and sines and cosines of 1, 2, 4 and 8 times the readings.

    A token changes when the robot moves by a fraction of its patch. Networks learn functions of plain coordinates that
    vary so quickly only very slowly (Fourier features, Tancik et al. 2020, arXiv 2006.10739).
    """
    angles = [readings * 2.0**octave for octave in range(_OCTAVES)]
    return torch.cat([readings, *(angle.sin() for angle in angles), *(angle.cos() for angle in angles)], dim=-1)


def _mlp(inward: int, width: int, outward: int) -> nn.Sequential:
    return nn.Sequential(_linear(inward, 2 * width), nn.GELU(approximate="tanh"), _linear(2 * width, outward))


def _linear(inward: int, outward: int) -> nn.Linear:
    """A linear layer. It suppresses torch's warning of a layer without inputs or outputs, for robots where P is 0."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return nn.Linear(inward, outward)
