"""Keypoints on the map of frozen features, and a feature vector for each keypoint.

A predictor that rolls out token features has to model how a moving object changes every token that it crosses. The
object's position and orientation are a few numbers that change smoothly. An autoencoder with a spatial bottleneck finds
them without labels (deep spatial autoencoders, Finn et al. 2016, arXiv 1509.06113; keypoints as
in Jakab et al. 2018, arXiv 1806.07823, and Transporter, Kulkarni et al. 2019, arXiv 1906.11883):

    w_k = softmax_n(logits_k(z))     keypoint_k = sum_n w_kn position_n     features_k = head_k(sum_n w_kn h_n)

The decoder reconstructs the tokens of a *neighbouring* frame, and receives the robot's proprioception at that frame.
The bottleneck therefore gains nothing from following the robot, and describes the rest of the scene. A state can then
be compared to a goal wherever the robot is in the goal image.

The predictor rolls out the keypoints and the appearance embedding. The embedding is learned from keypoints and
features, and replaces the features (`worldmodel.models.keypoint.appearance`).

Shapes: `B` frames, `N` tokens (rows times columns), `C` channels, `K` keypoints, `F` features of each, raw state
`Z = K (2 + F)`, `P` proprioception, `h` hidden width. Positions run from -1 to 1 from edge to edge.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.encoders.base import Grid

# Of the waves from which a robot's image is computed (Fourier features, arXiv 2006.10739), since an edge of the robot
# crosses a token within a small part of its range.
_FREQUENCIES: Final = (1.0, 2.0, 4.0)
_PLACES: Final = 8  # points that this image is computed from
_OWN: Final = 32  # numbers that each of its tokens has of its own
_LOG_RADIUS: Final = -1.2  # of the bumps around points, at the start: a sixth of the image's width


@dataclasses.dataclass(frozen=True)
class StateConfig:
    """Sizes of the keypoint state of one camera.

    Attributes:
        keypoints: number of keypoints, K.
        features: features per keypoint, F.
        embedding: size of the appearance embedding.
        hidden: width of encoder and decoder.
        embedding_width: width of the network from keypoints and features to the appearance embedding.
        robot_keypoints: keypoints that the decoder derives from proprioception.
        novelty: whether the model learns how unlike the training an image is (`keypoint.novelty`).
        alignment: whether images of a moved camera are aligned with the recording (`keypoint.camera_alignment`).
        balanced: whether keypoints have weights, by which every thing counts alike (`keypoint.balance`).
        robot_width: width of the network that shows what the robot alone looks like (`RobotImage`); 0 for none.
    """

    keypoints: int = 8
    features: int = 4
    embedding: int = 4
    hidden: int = 128
    embedding_width: int = 256
    robot_keypoints: int = 2
    novelty: bool = True
    alignment: bool = True
    balanced: bool = False
    robot_width: int = 0

    def __post_init__(self) -> None:
        options = dataclasses.asdict(self)
        sizes = [value for name, value in options.items() if not isinstance(value, bool) and name != "robot_width"]
        if min(sizes) < 1 or self.robot_width < 0:
            raise ValueError(f"every size must be at least 1, and robot_width at least 0, got {self}")

    @property
    def raw_size(self) -> int:
        """Size Z of the decoder's input, which is keypoints and features."""
        return self.keypoints * (2 + self.features)

    @property
    def size(self) -> int:
        """Size of the state that a predictor rolls out, which is keypoints and appearance embedding."""
        return 2 * self.keypoints + self.embedding


def token_positions(grid: Grid) -> Tensor:
    """Centres `[N, 2]` (row, column) of the tokens."""
    rows, columns = ((torch.arange(count) + 0.5) * 2 / count - 1 for count in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def tokens_around(places: Tensor, log_radius: Tensor, positions: Tensor) -> Tensor:
    """Where tokens at `positions [N, 2]` lie around `places [B, K, 2]`, `[B, N, 3 K + 2]`.

    `log_radius [K]` are the logarithms of the places' radii.

    It is the height of a bump around every place, the offset from it where the bump is, and the position itself.
    """
    offset = positions[None, :, None] - places[:, None]  # [B, N, K, 2]
    bump = torch.exp(-offset.pow(2).sum(-1) / (2 * log_radius.exp() ** 2))
    position = positions.expand(len(places), -1, -1)
    return torch.cat([3 * (offset * bump[..., None]).flatten(2), bump, position], dim=-1)


def explained_variance(read: Tensor, true: Tensor) -> Tensor:
    """R² `[P]` of estimates `read [R, P]`. 1 is perfect, 0 is as good as the mean, NaN is for constant readings."""
    if true.shape[1] == 0:
        return true.new_zeros(0)
    variance = true.var(0)
    r2 = 1 - (read - true).pow(2).mean(0) / variance.clamp_min(1e-12)
    return torch.where(variance > 1e-8, r2, torch.nan)


def _linear(inward: int, outward: int) -> nn.Linear:
    """A linear layer. It suppresses torch's warning of a layer without inputs or outputs, for robots where P is 0."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return nn.Linear(inward, outward)


class RobotImage(nn.Module):
    """Proprioception → what the robot alone contributes to the tokens, `E[z | p]`.

    The decoder is told where the robot is, and the keypoints gain nothing from following it. If the robot fills much of
    the image, as a gripper in front of a cube does, it is nevertheless easier for them to follow it. The distance to a
    goal then measures how far the robot is from its place in the goal image. So this regression is learned first, and
    the keypoints are computed from what it leaves. In a task whose goal is the pose of the robot itself, nothing would
    be left.

    When the robot moves, its image moves with it. So the network places some points in the image and computes every
    token from where it lies among them, as the decoder of keypoints does.
    """

    positions: Tensor

    def __init__(self, width: int, grid: Grid, channels: int, proprio_size: int) -> None:
        super().__init__()
        waves = proprio_size * (1 + 2 * len(_FREQUENCIES))
        self.places = nn.Sequential(_linear(waves, 64), nn.GELU(), nn.Linear(64, 2 * _PLACES))
        self.log_radius = nn.Parameter(torch.full((_PLACES,), _LOG_RADIUS))
        self.whole = nn.Sequential(_linear(waves, width), nn.GELU(), nn.Linear(width, width))
        self.own = nn.Parameter(0.1 * torch.randn(grid.tokens, _OWN))  # what else tells a token from the others
        self.near = nn.Linear(3 * _PLACES + 2 + _OWN, width)
        self.inner, self.norm, self.outer = nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, width)
        self.out = nn.Linear(width, channels)
        self.register_buffer("positions", token_positions(grid), persistent=False)

    def forward(self, proprio: Tensor) -> Tensor:
        """Standardised proprioception `[B, P]` → tokens `[B, N, C]`."""
        waves = [wave(frequency * proprio) for frequency in _FREQUENCIES for wave in (torch.sin, torch.cos)]
        seen = torch.cat([proprio, *waves], dim=1)
        around = tokens_around(self.places(seen).float().unflatten(1, (-1, 2)), self.log_radius, self.positions)
        near = self.near(torch.cat([around, self.own.expand(len(proprio), -1, -1)], dim=-1))
        x = F.gelu(near + self.whole(seen)[:, None], approximate="tanh")
        x = x + F.gelu(self.inner(x), approximate="tanh")
        x = x + F.gelu(self.outer(self.norm(x)), approximate="tanh")
        return self.out(x).float()


class KeypointEncoder(nn.Module):
    """Tokens → keypoints and features, and tokens → an estimate of proprioception.

    With `robot_width`, keypoints and features are computed from `z - show(read(z))`, without what the robot alone
    contributes. Proprioception is read from the image, for observations as for goals, so that both lack the same.
    """

    positions: Tensor

    def __init__(self, config: StateConfig, grid: Grid, channels: int, proprio_size: int) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        hidden, keypoints = config.hidden, config.keypoints
        self.convolutions = nn.ModuleList(nn.Conv2d(c, hidden, 3, padding=1) for c in (channels, hidden))
        self.logits, self.values = nn.Linear(hidden, keypoints), nn.Linear(hidden, hidden)
        self.heads = nn.Parameter(torch.randn(keypoints, hidden, config.features) / hidden**0.5)
        self.robot_convolution = nn.Conv2d(channels, 16, 3, padding=1)
        self.robot_head = nn.Sequential(
            nn.Linear(16 * grid.tokens, 2 * hidden), nn.GELU(), _linear(2 * hidden, proprio_size)
        )
        width = config.robot_width
        self.robot_image = RobotImage(width, grid, channels, proprio_size) if width else None
        self.register_buffer("positions", token_positions(grid), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, N, C]` → raw state `[B, Z]`: keypoints, then features, in their own units."""
        if self.robot_image is not None:
            tokens = tokens - self.robot_image(self.robot(tokens))
        x = tokens.transpose(1, 2).unflatten(2, self.grid)
        for convolution in self.convolutions:
            x = F.gelu(convolution(x), approximate="tanh")
        x = x.flatten(2).transpose(1, 2)
        weights = self.logits(x).float().softmax(1)  # [B, N, K]
        places = torch.einsum("bnk,nd->bkd", weights, self.positions)
        pooled = torch.einsum("bnk,bnh->bkh", weights.to(x.dtype), F.gelu(self.values(x), approximate="tanh"))
        features = torch.einsum("bkh,khf->bkf", pooled, self.heads.to(pooled.dtype)).float()
        return torch.cat([places.flatten(1), features.flatten(1)], dim=1)

    def robot(self, tokens: Tensor) -> Tensor:
        """Estimate of the standardised proprioception `[B, P]` from tokens `[B, N, C]`.

        The estimate of a reading that an image cannot show, such as a velocity, is its mean.
        """
        x = F.gelu(self.robot_convolution(tokens.transpose(1, 2).unflatten(2, self.grid)))
        return self.robot_head(x.flatten(1)).float()

    def shown(self, proprio: Tensor) -> Tensor | float:
        """What the robot alone contributes to tokens `[B, N, C]` at `proprio [B, P]`, or 0 if that is not known."""
        return 0.0 if self.robot_image is None else self.robot_image(proprio)

    def robot_parts(self) -> list[nn.Module]:
        """The networks that read the robot from an image and show it."""
        parts: list[nn.Module] = [self.robot_convolution, self.robot_head]
        return parts if self.robot_image is None else [*parts, self.robot_image]


class TokenDecoder(nn.Module):
    """Raw state and proprioception → tokens. Needed for training only.

    The input of every token is its distance to every keypoint, as the height of a bump around the keypoint, and the
    whole raw state. The appearance of an object is therefore learned once for all positions.
    """

    positions: Tensor

    def __init__(self, config: StateConfig, grid: Grid, channels: int, proprio_size: int) -> None:
        super().__init__()
        self.config = config
        hidden, places = config.hidden, config.keypoints + config.robot_keypoints
        self.robot = nn.Sequential(_linear(proprio_size, 32), nn.GELU(), nn.Linear(32, 2 * config.robot_keypoints))
        self.log_radius = nn.Parameter(torch.full((places,), _LOG_RADIUS))
        self.whole, self.near = nn.Linear(config.raw_size + proprio_size, hidden), nn.Linear(3 * places + 2, hidden)
        self.inner, self.norm, self.outer = nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, channels)
        self.register_buffer("positions", token_positions(grid), persistent=False)

    def forward(self, raw: Tensor, proprio: Tensor) -> Tensor:
        """Raw state `[B, Z]` and standardised proprioception `[B, P]` → tokens `[B, N, C]`."""
        scene = raw[:, : 2 * self.config.keypoints].unflatten(1, (-1, 2))
        places = torch.cat([scene, self.robot(proprio).float().unflatten(1, (-1, 2))], dim=1)  # [B, K', 2]
        near = tokens_around(places, self.log_radius, self.positions)
        x = F.gelu(self.near(near) + self.whole(torch.cat([raw, proprio], dim=1))[:, None], approximate="tanh")
        x = x + F.gelu(self.inner(x), approximate="tanh")
        x = x + F.gelu(self.outer(self.norm(x)), approximate="tanh")
        return self.out(x)
