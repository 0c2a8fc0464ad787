"""Classes that can be read from features of clips.

Shapes: `V` clips, `n` clips of the split that is reported, `C` classes, `D` width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.core.errors import choices_message
from worldmodel.encoders.probes.features import ClipShape
from worldmodel.encoders.probes.grid import GridConfig, Rows, Standardised, predict, train_grid
from worldmodel.encoders.probes.heads import AttentiveHead, MeanHead
from worldmodel.encoders.probes.measures import bootstrap_interval

LINEAR: Final = "linear"
ATTENTIVE: Final = "attentive"
PROBES: Final = (LINEAR, ATTENTIVE)


@dataclasses.dataclass(frozen=True)
class Part:
    """The clips of one split.

    Attributes:
        features: tokens `[V, K, D]`, also of clips of other splits.
        rows: which of them are the split's, int64 `[n]`.
        targets: what is to be read from each of these: classes int64 `[n]`, or points float32 `[n, T, 3]`.
    """

    features: NDArray[np.float16]
    rows: Rows
    targets: NDArray[np.generic]


@dataclasses.dataclass(frozen=True)
class Splits:
    """Clips to train on, to choose by and to report on."""

    train: Part
    val: Part
    test: Part


@dataclasses.dataclass(frozen=True)
class Classified:
    """The result of one kind of probe.

    Attributes:
        accuracy: share of the clips to report on whose class is right.
        low, high: its 95 % interval, by bootstrap over clips.
        val_accuracy: the share among the clips to choose by, of the chosen head.
        learning_rate, weight_decay: those of the chosen head.
        right: whether each clip is right, bool `[n]`.
    """

    accuracy: float
    low: float
    high: float
    val_accuracy: float
    learning_rate: float
    weight_decay: float
    right: NDArray[np.bool_]


def require_probes(names: tuple[str, ...]) -> None:
    """Raises ValueError for a kind of probe that does not exist."""
    for name in names:
        if name not in PROBES:
            raise ValueError(choices_message("probe", name, PROBES))
    if not names:
        raise ValueError(f"probes is empty: expected some of {', '.join(PROBES)}")


def classify(
    kind: str, splits: Splits, classes: int, shape: ClipShape, config: GridConfig, device: torch.device,
    progress: Callable[[int, int], None],
) -> Classified:  # fmt: skip
    """Train probes of `kind` for `classes` classes, choose one, and report on it."""

    def make() -> nn.Module:
        if kind == LINEAR:
            return MeanHead(shape.width, classes)
        return AttentiveHead(shape.width, config.heads_for(shape.width), config.depth, 1, classes)

    def loss(predicted: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(predicted[:, 0], targets)

    def right(part: Part, tokens: Standardised, head: nn.Module) -> NDArray[np.bool_]:
        # A head that has diverged predicts NaN, and is never right.
        predicted = predict(head, tokens.elsewhere(part.features), part.rows, config)[:, 0]
        finite = predicted.isfinite().all(-1).numpy()
        return np.asarray((predicted.argmax(-1).numpy() == part.targets) & finite)

    tokens = Standardised.of(splits.train.features, splits.train.rows, shape.positions(), device)
    targets = torch.from_numpy(splits.train.targets.astype(np.int64))
    heads = train_grid(make, tokens, splits.train.rows, targets, loss, config, progress)
    scores = [float(right(splits.val, tokens, head).mean()) for head in heads]
    best = int(np.argmax(scores))
    found = right(splits.test, tokens, heads[best])
    interval = bootstrap_interval(found[None].astype(np.float64))
    return Classified(float(found.mean()), *interval, scores[best], *config.corners[best], found)
