"""Masks that divide a clip by time: whole frames, and frames of which later ones are hidden more.

Shapes as in `worldmodel.encoders.jepa.masks.base`, and `T` tubelet layers of a clip.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.masks.base import Mask, divided, hidden_count, require_ratio, require_several
from worldmodel.encoders.jepa.masks.scattered import scatter

_TARGETS = ("any", "both", "future", "past")


@dataclasses.dataclass(frozen=True)
class WholeFrames:
    """Whole tubelet layers are hidden.

    Attributes:
        ratio: share of the layers that is hidden.
        targets: which layers: `any` at random, `future` (the last), `past` (the first), or `both` (before and after
            a stretch of visible layers, whose place is random).
    """

    ratio: float = 0.5
    targets: str = "any"

    def __post_init__(self) -> None:
        require_ratio(ratio=self.ratio)
        if self.targets not in _TARGETS:
            raise ValueError(f"targets '{self.targets}' is unknown: choose from {', '.join(_TARGETS)}")

    def __call__(self, batch: int, frames: int, grid: Grid, rng: np.random.Generator) -> Mask:
        """A mask for each of `batch` clips with `frames` tubelet layers of `grid` tokens.

        Raises:
            UserError: for a clip of one layer, or of fewer than three where the targets are on both sides.
        """
        require_several("tubelet layers", frames)
        if self.targets == "both" and frames < 3:
            raise UserError(f"the clip has {frames} tubelet layers: expected at least 3 for targets on both sides")
        layers = np.stack([self._draw_layers(frames, rng) for _ in range(batch)])
        return divided(np.repeat(layers, grid.tokens, axis=1))

    def _draw_layers(self, frames: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Hidden layers, bool `[T]`."""
        hidden, order = hidden_count(frames, self.ratio), np.arange(frames)
        if self.targets == "any":
            return scatter(1, frames, hidden, rng)[0]
        if self.targets == "future":
            return order >= frames - hidden
        if self.targets == "past":
            return order < hidden
        hidden = max(hidden, 2)  # one on either side
        first = int(rng.integers(1, hidden))
        return (order < first) | (order >= first + frames - hidden)


@dataclasses.dataclass(frozen=True)
class FutureBiased:
    """Scattered tokens, few of the early layers and most of the late ones, so that the task is to predict the future.

    Attributes:
        keep_early: share of the tokens of early layers that stays visible.
        hide_late: share of the tokens of late layers that is hidden.
        early: share of the layers that counts as early.
    """

    keep_early: float = 0.8
    hide_late: float = 0.8
    early: float = 0.5

    def __post_init__(self) -> None:
        require_ratio(keep_early=self.keep_early, hide_late=self.hide_late, early=self.early)

    def __call__(self, batch: int, frames: int, grid: Grid, rng: np.random.Generator) -> Mask:
        """A mask for each of `batch` clips with `frames` tubelet layers of `grid` tokens."""
        require_several("tubelet layers", frames)
        num_early = min(max(round(frames * self.early), 1), frames - 1) * grid.tokens
        num_late = frames * grid.tokens - num_early
        early = scatter(batch, num_early, round(num_early * (1 - self.keep_early)), rng)
        # At least one late token is hidden, so that there is a target. An early one is visible then, or a late one.
        late = scatter(batch, num_late, max(round(num_late * self.hide_late), 1), rng)
        hidden = np.concatenate([early, late], axis=1)
        hidden[:, 0] &= ~hidden.all(1)
        return divided(hidden)
