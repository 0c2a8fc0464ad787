"""Look at where a plan leads before it is executed, and rest where that is no nearer to the goal.

    d(imagined end, goal image) < (1 - margin) d(present, goal image)

d is the distance of the frozen encoder's features. The imagined end and the present are both decoded, so that what the
decoder blurs counts against neither. The model's own distance, which the plan was made with, has no part in it. A plan
that only deceives that distance is thereby found out, as far as the decoder shows it.
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
        model: that imagines.
        decoder: that shows what it imagines.
        margin: from 0 to 1: by how much the imagined end has to be nearer to the goal image, as a fraction of the
            distance of the present.

    Raises:
        UserError: for a margin that is none.
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
        """Whether the end of a plan is seen to be near enough to its goal. What is not finite is not.

        Args:
            latent: `[1, ...]`, of what is seen now.
            actions: `[1, H, A]`, the plan.
            target: `[1, F]`, of the goal.
        """
        imagined = self.decoder.code(self.model.imagine(latent, actions[:, None]))[:, 0, -1]  # [1, D]
        images = self.decoder.show(torch.cat([self.decoder.code(latent), imagined]))
        present, end = self.decoder.feature_distance(self.decoder.features(images), target).tolist()
        return bool(end < (1 - self.margin) * present)


def make_verification(margin: float | None, model: Model, decoder: Decoder | None) -> Verification | None:
    """The option `verify`; None where nothing is to be verified.

    Raises:
        UserError: where it is no margin, or there is no decoder.
    """
    if margin is None:
        return None
    if decoder is None:
        raise UserError(
            f"verify={margin} needs a decoder of this world model, and there is none: `python -m worldmodel.decode` "
            "makes one, decoder=FOLDER takes another"
        )
    return Verification(model, decoder, margin)
