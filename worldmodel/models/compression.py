"""Compresses frozen tokens to a few channels, the principal components of changes within an episode.

    z_n = (B^T (f_n - mean_n)) / std

Every position has its own mean. All positions share the basis `B` and the standard deviation `std` of its channels.
Both are computed from differences to the mean of each episode. Otherwise most channels would describe what differs only
between episodes, such as light and colour of the floor. Channels are scaled to equal variance. Fine detail, such as the
orientation of a block, lies in directions of small variance and would hardly count in a squared error without this
scaling.

Shapes: `E` episodes, `M` frames of each, `N` tokens of a frame, `D` their width, `C` channels kept.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from worldmodel.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class CompressionConfig:
    """How much is kept.

    Attributes:
        channels: principal channels per token, C.
        fit_frames: frames that the components are computed from.
        frames_per_episode: frames that are taken from one episode.
    """

    channels: int = 16
    fit_frames: int = 8192
    frames_per_episode: int = 16

    def __post_init__(self) -> None:
        if self.channels < 1 or self.frames_per_episode < 2 or self.fit_frames < self.frames_per_episode:
            raise ValueError(
                f"channels, frames_per_episode and fit_frames must be at least 1, 2 and frames_per_episode, got {self}"
            )


class Compression(nn.Module):
    """See the module's docstring. Its values are buffers of the model. Before `fit`, it maps everything to zero."""

    mean: Tensor
    basis: Tensor
    std: Tensor

    def __init__(self, config: CompressionConfig, num_tokens: int, token_size: int) -> None:
        super().__init__()
        self.config = config
        self.channels = min(config.channels, token_size)
        self.register_buffer("mean", torch.zeros(num_tokens, token_size))
        self.register_buffer("basis", torch.zeros(token_size, self.channels))
        self.register_buffer("std", torch.ones(self.channels))

    def fit(self, tokens: Tensor) -> float:
        """Compute the components of `tokens [E, M, N, D]`. Returns the share of the variance in episodes that is kept.

        Raises:
            UserError: if the tokens do not change.
        """
        exact = tokens.double()
        centred = (exact - exact.mean(1, keepdim=True)).flatten(0, 2)
        total = centred.pow(2).sum()
        if not total > 0:
            episodes, frames = tokens.shape[:2]
            raise UserError(
                f"{frames} frames each of {episodes} episodes are all alike: a predictor needs a recording in which "
                "something moves"
            )
        self.mean.copy_(exact.mean((0, 1)))
        self.basis.copy_(_leading_directions(centred.T @ centred, self.channels))
        kept = centred @ self.basis.double()
        std = kept.pow(2).mean(0).sqrt()
        self.std.copy_(std.clamp_min(1e-3 * std.max()))  # the last directions may have no variance
        return float(kept.pow(2).sum() / total)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[..., N, D]` → `[..., N, C]`, every channel of unit variance within an episode."""
        return (tokens.float() - self.mean) @ self.basis / self.std


def _leading_directions(gram: Tensor, count: int) -> Tensor:
    """The `count` eigenvectors `[M, count]` of `gram [M, M]` with the largest eigenvalues and with unique signs."""
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :count]
    signs = torch.gather(vectors, 0, vectors.abs().argmax(0, keepdim=True)).sign()
    return vectors * signs
