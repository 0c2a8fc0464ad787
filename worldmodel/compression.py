"""From frozen tokens to a few channels: principal components of what varies in the recording.

    z_n = (B^T (f_n - mean_n)) / std

The mean is taken for every position by itself, so what never changes in the scene drops out; the basis `B` and the
spread `std` of its channels are shared by all positions. Every channel counts the same afterwards: fine detail, such as
which way a block is turned, sits in directions of small variance and would hardly count in a squared error.

Shapes: `N` tokens of a frame, `D` their width, `C` channels kept.
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
        fit_frames: frames that the components are computed from.
    """

    channels: int = 16
    fit_frames: int = 8192

    def __post_init__(self) -> None:
        if min(self.channels, self.fit_frames) < 1:
            raise ValueError(f"channels and fit_frames must be at least 1, got {self}")


class Compression(nn.Module):
    """See the module's docstring. Kept with the model as buffers; until `fit`, it maps everything to zero."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, config: CompressionConfig, num_tokens: int, token_size: int) -> None:
        super().__init__()
        self.config = config
        self.channels = min(config.channels, token_size)
        self.register_buffer("mean", torch.zeros(num_tokens, token_size))
        self.register_buffer("basis", torch.zeros(token_size, self.channels))
        self.register_buffer("scale", torch.ones(self.channels))

    def fit(self, tokens: Tensor) -> float:
        """Compute the components of `tokens [R, N, D]`; returns the share of their variance that is kept.

        Raises:
            UserError: when nothing varies.
        """
        centred = (tokens.double() - tokens.double().mean(0)).flatten(0, 1)
        total = centred.pow(2).sum()
        if not total > 0:
            raise UserError(
                f"{len(tokens)} frames are all alike: a predictor needs a recording in which something moves"
            )
        self.mean.copy_(tokens.double().mean(0))
        self.basis.copy_(_leading_directions(centred.T @ centred, self.channels))
        kept = centred @ self.basis.double()
        std = kept.pow(2).mean(0).sqrt()
        self.scale.copy_(std.clamp_min(1e-3 * std.max()))  # the last directions may be empty
        return float(kept.pow(2).sum() / total)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `[..., N, D]` → `[..., N, C]`, every channel of unit variance over the recording."""
        return (tokens.float() - self.mean) @ self.basis / self.scale


def _leading_directions(gram: Tensor, count: int) -> Tensor:
    """The `count` eigenvectors `[M, count]` of `gram [M, M]` with the largest eigenvalues, signs made unique."""
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :count]
    signs = torch.gather(vectors, 0, vectors.abs().argmax(0, keepdim=True)).sign()
    return vectors * signs
