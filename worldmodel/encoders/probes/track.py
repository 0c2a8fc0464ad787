"""A point that can be read from features of clips, in every frame.

Shapes: `n` clips of the split that is reported, `T` frames of a clip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from worldmodel.encoders.probes.classify import LINEAR, Part, Splits
from worldmodel.encoders.probes.features import ClipShape
from worldmodel.encoders.probes.grid import GridConfig, Standardised, predict, train_grid
from worldmodel.encoders.probes.heads import AttentiveHead, TubeletHead
from worldmodel.encoders.probes.measures import bootstrap_interval


@dataclasses.dataclass(frozen=True)
class Tracked:
    """The result of one kind of probe for points.

    Attributes:
        error: mean distance to the point where it is visible, in fractions of the image's side.
        low, high: its 95 % interval, by bootstrap over clips.
        hidden_error: the same where it is hidden; NaN if it never is.
        reference_error: the error of the mean of all points that were trained on.
        val_error: the error on the clips to choose by, of the chosen head.
        learning_rate, weight_decay: those of the chosen head.
        errors: mean error in the visible frames of each clip, float `[n]`, NaN where there is none.
    """

    error: float
    low: float
    high: float
    hidden_error: float
    reference_error: float
    val_error: float
    learning_rate: float
    weight_decay: float
    errors: NDArray[np.float64]


def track(
    kind: str, splits: Splits, shape: ClipShape, config: GridConfig, device: torch.device,
    progress: Callable[[int, int], None],
) -> Tracked:  # fmt: skip
    """Train probes of `kind` for a point in every frame, choose one, and report on it.

    A linear probe sees all tokens of a frame's tubelet, since a mean over places would lose the place. The loss is the
    mean absolute error, over visible and hidden frames alike.
    """
    frames = shape.segments * shape.frames

    def make() -> nn.Module:
        if kind == LINEAR:
            return TubeletHead(shape.grid.tokens, shape.width, frames // shape.tubelets, 2)
        return AttentiveHead(shape.width, config.heads_for(shape.width), config.depth, frames, 2)

    tokens = Standardised.of(splits.train.features, splits.train.rows, shape.positions(), device)
    # A head begins near 0, so points are given from the mean place on.
    known = splits.train.targets.astype(np.float32)
    mean = known[..., :2].mean((0, 1))
    targets = torch.from_numpy(known[..., :2] - mean)
    heads = train_grid(make, tokens, splits.train.rows, targets, F.l1_loss, config, progress)

    def errors(part: Part, head: nn.Module | None) -> Mapping[str, NDArray[np.float64]]:
        wanted = part.targets.astype(np.float64)
        guessed = np.zeros((len(wanted), frames, 2))
        if head is not None:
            guessed = predict(head, tokens.elsewhere(part.features), part.rows, config).double().numpy()
        distances = np.linalg.norm(guessed + mean - wanted[..., :2], axis=-1)
        distances = np.nan_to_num(distances, nan=np.inf)  # of a head that has diverged
        seen = wanted[..., 2] > 0
        return {"visible": _mean_of(distances, seen), "hidden": _mean_of(distances, ~seen)}

    scores = [float(np.nanmean(errors(splits.val, head)["visible"])) for head in heads]
    best = int(np.nanargmin(scores))
    found, reference = errors(splits.test, heads[best]), errors(splits.test, None)
    visible = found["visible"][~np.isnan(found["visible"])]
    hidden = found["hidden"][~np.isnan(found["hidden"])]
    return Tracked(
        float(visible.mean()), *bootstrap_interval(visible[None]), float(hidden.mean()) if len(hidden) else np.nan,
        float(np.nanmean(reference["visible"])), scores[best], *config.corners[best], found["visible"],
    )  # fmt: skip


def _mean_of(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of the chosen numbers of every row of `values [n, T]`, NaN for a row without any."""
    counts = chosen.sum(1)
    sums = np.where(chosen, values, 0).sum(1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
