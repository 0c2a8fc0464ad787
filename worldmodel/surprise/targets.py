"""The normalisation of a pretraining's targets, with statistics of given clips in place of those of a batch.

Shapes: `R` windows, `T` tubelet layers, `G` positions of a frame's grid, `D` features of a token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final, Self

import torch
from torch import Tensor

from worldmodel.core.errors import UserError

KINDS: Final = ("instance", "layer_norm", "standardise")
_LEAST: Final = 1e-4  # as in the training, where a feature that is constant is divided by it


@dataclasses.dataclass(frozen=True)
class TargetScale:
    """y = (f - mean) / std, as `JepaConfig.targets` says, of layer-normed features f.

    Attributes:
        per_window: whether the mean over its tokens is subtracted from every window first (`instance`).
        mean: `[G, D]`, the mean of each position over windows and time. None for `layer_norm`, which changes nothing.
        std: `[D]`, the root mean square of what is left.
    """

    per_window: bool = False
    mean: Tensor | None = None
    std: Tensor | None = None

    @classmethod
    def fit(cls, targets: str, parts: Iterable[Tensor]) -> Self:
        """The statistics of features `[R, T, G, D]` of a sample, which comes in parts. `layer_norm` needs none.

        Raises:
            UserError: for unknown targets, and for images of different sizes.
        """
        require_known(targets)
        if targets == "layer_norm":
            return cls()
        per_window, count, total, squares = targets == "instance", 0, torch.zeros(()), torch.zeros(())
        for features in parts:
            if total.ndim and features.shape[2:] != total.shape:
                raise UserError("the clips have images of different sizes: expected one size for all cameras")
            shown = (_centred(features) if per_window else features).double()
            count += shown.shape[0] * shown.shape[1]
            total, squares = total + shown.sum((0, 1)).cpu(), squares + shown.pow(2).sum((0, 1)).cpu()
        mean = total / count
        std = (squares / count - mean.pow(2)).mean(0).clamp_min(0).sqrt().clamp_min(_LEAST)
        return cls(per_window, mean.float(), std.float())

    def __call__(self, features: Tensor) -> Tensor:
        """Normalise `features [R, T, G, D]`."""
        if self.mean is None or self.std is None:
            return features
        centred = _centred(features) if self.per_window else features
        return (centred - self.mean.to(features.device)) / self.std.to(features.device)


def require_known(targets: str) -> None:
    """Raises UserError for targets whose normalisation cannot be repeated."""
    if targets not in KINDS:
        raise UserError(
            f"this predictor was trained with jepa.targets={targets}, whose statistics belong to a batch: expected one "
            f"of {', '.join(KINDS)}"
        )


def _centred(features: Tensor) -> Tensor:
    return features - torch.mean(features, dim=(1, 2), keepdim=True)
