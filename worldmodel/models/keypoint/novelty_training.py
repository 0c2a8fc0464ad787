"""The training stage that learns what images of the training look like, original and varied ones.

Shapes: `R` rows of the recording, `B` images, `N` tokens of a frame, `C` channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.data.clips import rows_of
from worldmodel.models.features import FeatureStage
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.stages import Stage, TrainingContext

# Images of each kind: a covariance of 16 channels needs some hundreds, and these take a second.
_MOST_IMAGES: Final = 8192
# Of the held-out images of each kind that a goal may be as unlike as.
ACCEPTED: Final = 0.999
_AT_ONCE: Final = 2048
_REPORTED: Final = (0.5, 0.9, 0.99, ACCEPTED)


def fit_novelty(model: KeypointModel, images: Mapping[str, Sequence[Tensor]]) -> None:
    """Learn the training's images: by camera, tokens `[B, N, C]` of original and of varied ones."""
    for camera, kinds in images.items():
        novelty = model.view(camera).novelty
        assert novelty is not None
        novelty.fit(torch.cat([tokens.float() for tokens in kinds]))


@torch.no_grad()
def calibrate_novelty(model: KeypointModel, images: Sequence[Mapping[str, Tensor]]) -> dict[str, list[float]]:
    """Set the limit from held-out images, which are original ones and varied ones: tokens `[B, N, C]` by camera.

    The limit is the largest of the kinds' conformal quantiles, so that each kind is accepted as often as it says.

    Returns:
        Novelty at the levels 0.5, 0.9, 0.99 and 0.999 of each kind.
    """
    limits, report = [], {}
    for kind, tokens in zip(("original", "varied"), images, strict=False):
        count = min(map(len, tokens.values()))
        parts = [
            torch.stack(
                [model.view(camera).novelty_of(own[begin : begin + _AT_ONCE]) for camera, own in tokens.items()]
            )
            for begin in range(0, count, _AT_ONCE)
        ]
        found = torch.cat([part.amax(0) for part in parts]).sort().values
        ranks = [min(count, math.ceil((count + 1) * level)) for level in _REPORTED]
        report[kind] = [float(found[rank - 1]) for rank in ranks]
        limits.append(report[kind][-1])
    model.largest_novelty.fill_(max(limits))
    return report


class NoveltyStage(Stage):
    """Learns what images look like, from those of the training, and calibrates the limit on held-out episodes.

    Args:
        features: the finished stages of all cameras, by camera.
    """

    name = "novelty"

    def __init__(self, features: Mapping[str, FeatureStage]) -> None:
        self._features = features

    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        model, ends, split = context.model, context.store.episode_ends, context.split
        assert isinstance(model, KeypointModel)
        model.cpu()
        rng = np.random.default_rng(context.seed)
        learned = self._kinds(rows_of(ends, split.train), rng)
        fit_novelty(model, {camera: [kind[camera] for kind in learned] for camera in self._features})
        held_out = rows_of(ends, split.held_out)
        report = calibrate_novelty(model, self._kinds(held_out, rng) if len(held_out) else learned)
        context.write({"levels": _REPORTED, **report, "limit": model.novelty_limit}, "novelty.json")
        context.say(f"novelty: {ACCEPTED:.1%} of the held-out images are below {model.novelty_limit:.3g}")

    def _kinds(self, rows: NDArray[np.int64], rng: np.random.Generator) -> list[dict[str, Tensor]]:
        """Tokens by camera of `rows`, or of many of them, as they are and varied where there are any such."""
        features = self._features
        have = [rows[stage.varied.are_there(rows)] for stage in features.values()]
        kinds = [(rows, False), *([(have[0], True)] if min(map(len, have)) else [])]
        found = []
        for available, is_varied in kinds:
            chosen = np.sort(rng.permutation(available)[:_MOST_IMAGES])
            found.append({camera: _tokens(stage, chosen, is_varied) for camera, stage in features.items()})
        return found


def _tokens(stage: FeatureStage, rows: NDArray[np.int64], is_varied: bool) -> Tensor:
    tokens = stage.varied.tokens[stage.varied.at(rows)] if is_varied else stage.tokens[rows]
    return torch.from_numpy(np.asarray(tokens, np.float32))
