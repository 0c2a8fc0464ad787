"""The scene in a few numbers: keypoints on the map of frozen features, and what they look like there.

A predictor that rolls out token features spends its effort on how a moving thing changes every token that it crosses.
Where the thing is, and which way it is turned, are few numbers that move smoothly. They are found without labels, by
an autoencoder whose bottleneck is spatial (deep spatial autoencoders, Finn et al. 2016, arXiv 1509.06113; keypoints as
in Jakab et al. 2018, arXiv 1806.07823, and Transporter, Kulkarni et al. 2019, arXiv 1906.11883):

    w_k = softmax_n(logits_k(z))     keypoint_k = sum_n w_kn position_n     appearance_k = head_k(sum_n w_kn h_n)

The decoder paints the tokens of a *neighbouring* moment, and is told where the robot was then. So the code has nothing
to gain from following the robot, whose proprioception is known anyway: it describes the rest of the scene, and a goal
can be compared there wherever the robot happens to be in its picture.

What a predictor rolls out is the keypoints and, instead of the appearance, the look that is learned from it
(`worldmodel.models.keypoint.look`).

Shapes: `B` frames, `G` tokens along a side, `N = G^2` tokens, `C` channels, `K` keypoints, `F` appearance features of
each, raw code `Z = K (2 + F)`, `L` numbers of the look, scene code `2 K + L`, `P` proprioception, `h` hidden width.
Positions run from -1 to 1 from edge to edge.
"""

from __future__ import annotations

import dataclasses
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.models.keypoint.look import LookEncoder


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """Size of the scene code.

    Attributes:
        keypoints: K.
        appearance: features per keypoint, F.
        looks: numbers of the look, L.
        hidden: width of encoder and decoder.
        look_width: of the network from raw code to look.
        robot_keypoints: places that the decoder derives from proprioception.
    """

    keypoints: int = 8
    appearance: int = 4
    looks: int = 4
    hidden: int = 128
    look_width: int = 256
    robot_keypoints: int = 2

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError(f"every size must be at least 1, got {self}")

    @property
    def raw_size(self) -> int:
        """Numbers that the painter is given, Z."""
        return self.keypoints * (2 + self.appearance)

    @property
    def size(self) -> int:
        """Numbers that a predictor rolls out."""
        return 2 * self.keypoints + self.looks


def token_positions(grid: int) -> Tensor:
    """Centres `[N, 2]` (row, column) of the tokens."""
    centres = (torch.arange(grid) + 0.5) * 2 / grid - 1
    return torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=-1).flatten(0, 1)


def explained_variance(read: Tensor, true: Tensor) -> Tensor:
    """R² `[P]` of standardised readings `[R, P]`: 1 is perfect, 0 no better than the mean, NaN where nothing varies."""
    if true.shape[1] == 0:
        return true.new_zeros(0)
    variance = true.var(0)
    r2 = 1 - (read - true).pow(2).mean(0) / variance.clamp_min(1e-12)
    return torch.where(variance > 1e-8, r2, torch.nan)


def _linear(inward: int, outward: int) -> nn.Linear:
    """A linear layer; torch warns of one without inputs or outputs, as proprioception of no numbers has it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return nn.Linear(inward, outward)


class SceneEncoder(nn.Module):
    """Tokens → keypoints and appearance; and tokens → what they show of the robot."""

    positions: Tensor

    def __init__(self, config: SceneConfig, grid: int, channels: int, proprio_size: int) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        hidden, keypoints = config.hidden, config.keypoints
        self.convolutions = nn.ModuleList(nn.Conv2d(c, hidden, 3, padding=1) for c in (channels, hidden))
        self.logits, self.looks = nn.Linear(hidden, keypoints), nn.Linear(hidden, hidden)
        self.heads = nn.Parameter(torch.randn(keypoints, hidden, config.appearance) / hidden**0.5)
        self.robot_convolution = nn.Conv2d(channels, 16, 3, padding=1)
        self.robot_head = nn.Sequential(
            nn.Linear(16 * grid**2, 2 * hidden), nn.GELU(), _linear(2 * hidden, proprio_size)
        )
        self.register_buffer("positions", token_positions(grid), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, N, C]` → keypoints and appearance `[B, Z]` in their own units."""
        x = tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        for convolution in self.convolutions:
            x = F.gelu(convolution(x), approximate="tanh")
        x = x.flatten(2).transpose(1, 2)
        weights = self.logits(x).float().softmax(1)  # [B, N, K]
        places = torch.einsum("bnk,nd->bkd", weights, self.positions)
        pooled = torch.einsum("bnk,bnh->bkh", weights.to(x.dtype), F.gelu(self.looks(x), approximate="tanh"))
        appearance = torch.einsum("bkh,khf->bkf", pooled, self.heads.to(pooled.dtype)).float()
        return torch.cat([places.flatten(1), appearance.flatten(1)], dim=1)

    def robot(self, tokens: Tensor) -> Tensor:
        """The standardised proprioception `[B, P]` that tokens `[B, N, C]` let one guess.

        What a picture cannot show, such as a velocity, comes out as its mean.
        """
        x = F.gelu(self.robot_convolution(tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))))
        return self.robot_head(x.flatten(1)).float()


class Scene(nn.Module):
    """Tokens → scene code: keypoints and look, standardised. All that stays with the world model."""

    code_mean: Tensor
    code_std: Tensor
    robot_readable: Tensor

    def __init__(self, config: SceneConfig, grid: int, channels: int, proprio_size: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = SceneEncoder(config, grid, channels, proprio_size)
        self.look = LookEncoder(config.raw_size, config.looks, config.look_width)
        # Set by `calibrate`, when training is over.
        self.register_buffer("code_mean", torch.zeros(config.size))
        self.register_buffer("code_std", torch.ones(config.size))
        self.register_buffer("robot_readable", torch.zeros(proprio_size))

    def from_raw(self, raw: Tensor) -> Tensor:
        """Raw code `[B, Z]` → keypoints and look `[B, 2 K + L]` in their own units."""
        return torch.cat([raw[:, : 2 * self.config.keypoints], self.look(raw)], dim=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, N, C]` → standardised code `[B, 2 K + L]`."""
        return self.standardise(self.from_raw(self.encoder(tokens)))

    def standardise(self, code: Tensor) -> Tensor:
        """`[..., 2 K + L]`, from its own units."""
        return (code - self.code_mean) / self.code_std

    def robot(self, tokens: Tensor) -> Tensor:
        """The standardised proprioception `[B, P]` that tokens `[B, N, C]` let one guess."""
        return self.encoder.robot(tokens)

    def parts(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints `[..., 2 K]` and look `[..., L]` of a standardised code, in their own units."""
        keypoints, look = (code * self.code_std + self.code_mean).tensor_split([2 * self.config.keypoints], dim=-1)
        return keypoints, look

    def calibrate(self, codes: Tensor, robot_read: Tensor, proprio: Tensor) -> None:
        """Note the spread of `codes [R, 2 K + L]`, and how much of `proprio [R, P]` was in `robot_read [R, P]`."""
        self.code_mean.copy_(codes.mean(0))
        self.code_std.copy_(codes.std(0).clamp_min(1e-4))
        # What never varied says nothing about where the robot is.
        self.robot_readable.copy_(explained_variance(robot_read, proprio).nan_to_num(0.0).clamp(0, 1))


class SceneDecoder(nn.Module):
    """Raw code and proprioception → tokens. Needed for training only.

    Every token sees how far it is from every keypoint, through a bump around it, and the whole code: what a thing looks
    like is learned once for all places.
    """

    positions: Tensor

    def __init__(self, config: SceneConfig, grid: int, channels: int, proprio_size: int) -> None:
        super().__init__()
        self.config = config
        hidden, places = config.hidden, config.keypoints + config.robot_keypoints
        self.robot = nn.Sequential(_linear(proprio_size, 32), nn.GELU(), nn.Linear(32, 2 * config.robot_keypoints))
        self.log_radius = nn.Parameter(torch.full((places,), -1.2))
        self.whole, self.near = nn.Linear(config.raw_size + proprio_size, hidden), nn.Linear(3 * places + 2, hidden)
        self.inner, self.norm, self.outer = nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, channels)
        self.register_buffer("positions", token_positions(grid), persistent=False)

    def forward(self, raw: Tensor, proprio: Tensor) -> Tensor:
        """Raw code `[B, Z]` and standardised proprioception `[B, P]` → tokens `[B, N, C]`."""
        scene = raw[:, : 2 * self.config.keypoints].unflatten(1, (-1, 2))
        places = torch.cat([scene, self.robot(proprio).float().unflatten(1, (-1, 2))], dim=1)  # [B, K', 2]
        offset = self.positions[None, :, None] - places[:, None]  # [B, N, K', 2]
        bump = torch.exp(-offset.pow(2).sum(-1) / (2 * self.log_radius.exp() ** 2))
        position = self.positions.expand(len(raw), -1, -1)
        near = torch.cat([3 * (offset * bump[..., None]).flatten(2), bump, position], dim=-1)
        x = F.gelu(self.near(near) + self.whole(torch.cat([raw, proprio], dim=1))[:, None], approximate="tanh")
        x = x + F.gelu(self.inner(x), approximate="tanh")
        x = x + F.gelu(self.outer(self.norm(x)), approximate="tanh")
        return self.out(x)
