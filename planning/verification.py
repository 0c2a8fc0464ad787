"""Verification of plans before they are executed. The action is rest if a plan is not seen to lead nearer to the goal.

    d(imagined end, goal image) < (1 - margin) d(present, goal image)

d is the distance in the features of the frozen encoder. The imagined end and the present are both decoded, so that the
decoder's own error affects both. The latent distance, which the plan minimises, is not used. A plan that only deceives
the latent distance is therefore refused, as far as the decoder shows the difference.

Shapes: `H` control steps ahead, `A` action dimensions, `F` numbers of the features of all cameras.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from planning.types import Decoder, Model
from worldmodel.core.errors import UserError
from worldmodel.core.goal import Goal, ImageGoal


@dataclasses.dataclass(frozen=True)
class Verification:
    """Verifies plans before they are executed.

    Attributes:
        model: the world model.
        decoder: the decoder of this model.
        margin: from 0 to below 1, by how much the imagined end has to be nearer to the goal image, as a fraction of the
            distance of the present.

    Raises:
        UserError: for a margin outside these bounds.
    """

    model: Model
    decoder: Decoder
    margin: float

    def __post_init__(self) -> None:
        if not (isinstance(self.margin, int | float) and 0 <= self.margin < 1):
            raise UserError(f"verify is {self.margin}: expected a number of at least 0 and below 1")

    def target(self, goal: Goal) -> Tensor:
        """Features `[1, F]` of a goal image. Raises UserError for another kind of goal."""
        if not isinstance(goal, ImageGoal):
            raise UserError(f"verify compares images, and the goal is a {type(goal).__name__}: expected ImageGoal")
        return self.decoder.features({name: np.asarray(image)[None] for name, image in goal.images.items()})

    @torch.no_grad()
    def accepts(self, latent: Any, actions: Tensor, target: Tensor) -> bool:
        """Whether a plan may be executed. Numbers that are not finite refuse it.

        Args:
            latent: latent `[1, ...]` after the last observation.
            actions: the plan, `[1, H, A]`.
            target: features `[1, F]` of the goal image.
        """
        imagined = self.decoder.code(self.model.imagine(latent, actions[:, None]))[:, 0, -1]  # [1, D]
        codes = torch.cat([self.decoder.code(latent), imagined])
        if not bool(codes.isfinite().all()):
            return False
        images = self.decoder.show(codes)
        present, end = self.decoder.feature_distance(self.decoder.features(images), target).tolist()
        return bool(end < (1 - self.margin) * present)


def make_verification(margin: float | None, model: Model, decoder: Decoder | None) -> Verification | None:
    """The verification for the option `verify`, or None without this option.

    Raises:
        UserError: for a margin outside its bounds, and if there is no decoder.
    """
    if margin is None:
        return None
    if decoder is None:
        raise UserError(
            f"verify={margin} needs a decoder of this world model, and there is none: `python -m worldmodel.decode` "
            "makes one, decoder=FOLDER takes another"
        )
    return Verification(model, decoder, margin)
