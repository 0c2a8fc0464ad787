"""How unlike the images of the training an image is, from its compressed tokens.

    novelty(z) = mean_n |W_n (z_n - mean_n)|² / C          W_n^T W_n = (covariance_n + shrinkage)^-1

Every position of the grid has a Gaussian of its own (PaDiM, arXiv 2011.08785). It is fitted to original and varied
images alike, so that another light or a camera that moved a little is not new. The mean over the images of the fit
is about 1.

Shapes: `B` images, `N` tokens of a frame, `C` channels of each.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

# Of the mean variance over all positions and channels, added to every variance: where nothing ever moved, the noise of
# the numbers would count otherwise.
_SHRINKAGE: Final = 0.05


class Novelty(nn.Module):
    """See the module's docstring. Until `fit`, tokens are expected to be standard normal."""

    token_mean: Tensor
    whitening: Tensor

    def __init__(self, num_tokens: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("token_mean", torch.zeros(num_tokens, channels))
        self.register_buffer("whitening", torch.eye(channels).repeat(num_tokens, 1, 1))

    def fit(self, tokens: Tensor) -> None:
        """Learn mean and spread of `tokens [B, N, C]` at every position."""
        exact = tokens.double()
        mean = exact.mean(0)
        centred = (exact - mean).transpose(0, 1)
        covariance = centred.transpose(1, 2) @ centred / len(exact)
        variances, directions = torch.linalg.eigh(covariance)
        # The smallest positive number keeps a recording of one colour finite.
        variances = variances + _SHRINKAGE * variances.mean() + torch.finfo(torch.float32).tiny
        self.token_mean.copy_(mean)
        self.whitening.copy_(directions * variances.rsqrt()[:, None])

    def forward(self, tokens: Tensor) -> Tensor:
        """Novelty `[...]` of tokens `[..., N, C]`."""
        centred = (tokens.float() - self.token_mean)[..., None, :]
        return (centred @ self.whitening).squeeze(-2).pow(2).mean((-2, -1))
