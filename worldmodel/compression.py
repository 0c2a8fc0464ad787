"""From frozen tokens to a short vector: principal components of what varies in the recording.

A predictor that rolls out all tokens spends nearly all of its time on what never changes. Two linear steps, fitted to
the dataset's statistics without any training, keep the directions in which the scene varies:

    y = B_jointᵀ flatten(B_channelᵀ (f - mean)),   z = y / std(y)^w

Both bases are orthonormal, so `distance` between two z is the distance between the tokens themselves, without the part
outside the subspace. It is dominated by large moving things, which makes it a good landscape to plan in. For learning,
the directions are weighted more evenly (w = 0.5): fine detail, such as which way a block is turned, sits in directions
of small variance and would hardly count in a squared error.

Shapes: `N` tokens of a frame, `D` their width, `C` channels kept, `K` size of z.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from configs.command import UserError


@dataclasses.dataclass(frozen=True)
class CompressionConfig:
    """How much is kept.

    Attributes:
        channels: principal channels per token, C.
        size: principal directions of all tokens together, K.
        whitening: exponent w; 0 keeps the variances, 1 makes them all equal.
        fit_frames: frames that the components are computed from.
    """

    channels: int = 16
    size: int = 512
    whitening: float = 0.5
    fit_frames: int = 8192

    def __post_init__(self) -> None:
        if min(self.channels, self.size, self.fit_frames) < 1:
            raise ValueError(f"channels, size and fit_frames must be at least 1, got {self}")
        if not 0 <= self.whitening <= 1:
            raise ValueError(f"whitening {self.whitening} must be between 0 and 1")


class Compression(nn.Module):
    """See the module's docstring. Kept with the model as buffers; until `fit`, it maps everything to zero."""

    mean: Tensor
    channel_basis: Tensor
    joint_basis: Tensor
    scale: Tensor
    metric: Tensor
    variance: Tensor

    def __init__(self, config: CompressionConfig, num_tokens: int, token_size: int) -> None:
        super().__init__()
        channels = min(config.channels, token_size)
        self.config = config
        self.size = min(config.size, num_tokens * channels)
        self.register_buffer("mean", torch.zeros(num_tokens, token_size))
        self.register_buffer("channel_basis", torch.zeros(token_size, channels))
        self.register_buffer("joint_basis", torch.zeros(num_tokens * channels, self.size))
        self.register_buffer("scale", torch.ones(self.size))
        self.register_buffer("metric", torch.ones(self.size))
        self.register_buffer("variance", torch.ones(self.size))

    def fit(self, tokens: Tensor) -> float:
        """Compute the components of `tokens [R, N, D]`; returns the share of their variance that is kept.

        Raises:
            UserError: when nothing varies.
        """
        centred = tokens.double() - tokens.double().mean(0)
        total = centred.pow(2).sum()
        if not total > 0:
            raise UserError(
                f"{len(tokens)} frames are all alike: a predictor needs a recording in which something moves"
            )
        self.mean.copy_(tokens.double().mean(0))
        flat = centred.flatten(0, 1)
        self.channel_basis.copy_(_leading_directions(flat.T @ flat, self.channel_basis.shape[1]))
        reduced = (centred @ self.channel_basis.double()).flatten(1)
        self.joint_basis.copy_(_leading_directions(reduced.T @ reduced, self.size))
        kept = reduced @ self.joint_basis.double()
        std = kept.pow(2).mean(0).sqrt()
        std = std.clamp_min(1e-3 * std.max())  # with few frames the last directions are empty
        self.scale.copy_(std**self.config.whitening * (std ** (1 - self.config.whitening)).pow(2).mean().sqrt())
        self.variance.copy_(std.pow(2) / std.pow(2).mean())
        self.metric.copy_(self.scale.double() ** 2 / std.pow(2).mean())
        return float(kept.pow(2).sum() / total)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[..., N, D]` → z `[..., K]`, whose mean square over the recording is one."""
        reduced = (tokens.float() - self.mean) @ self.channel_basis
        return reduced.flatten(-2) @ self.joint_basis / self.scale

    def coarse_weights(self, coarseness: float) -> Tensor:
        """Weights `[K]` of z under which a direction counts with the tokens' variance to the power 1 + `coarseness`."""
        return self.metric.sqrt() * self.variance.pow(coarseness / 2)

    def distance(self, z: Tensor, other: Tensor) -> Tensor:
        """Mean squared distance `[...]` between the tokens behind two z `[..., K]`.

        In units of the recording's variance: two unrelated frames are about 2 apart.
        """
        return ((z - other).pow(2) * self.metric).mean(-1)


def _leading_directions(gram: Tensor, count: int) -> Tensor:
    """The `count` eigenvectors `[M, count]` of `gram [M, M]` with the largest eigenvalues, signs made unique."""
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :count]
    signs = torch.gather(vectors, 0, vectors.abs().argmax(0, keepdim=True)).sign()
    return vectors * signs
