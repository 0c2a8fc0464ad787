"""The training stage that learns the background of every camera, by which images are aligned.

Shapes: `R` rows of the recording.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.data.clips import rows_of
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.stages import Stage, TrainingContext

# A median over so many images has no trace of what moves, unless it stays at one place for half of the recording.
_MOST_IMAGES: Final = 600
_TRIED_IMAGES: Final = 150


class AlignmentStage(Stage):
    """Learns every camera's background, and tries it on images of held-out episodes."""

    name = "camera alignment"

    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        model, ends, split = context.model, context.store.episode_ends, context.split
        assert isinstance(model, KeypointModel)
        model.cpu()
        rng = np.random.default_rng(context.seed)
        learned = _some(rows_of(ends, split.train), _MOST_IMAGES, rng)
        held_out = rows_of(ends, split.held_out)
        tried = _some(held_out if len(held_out) else learned, _TRIED_IMAGES, rng)
        report = {}
        for camera, frames in context.frames.items():
            alignment = model.view(camera).alignment
            assert alignment is not None
            report[camera] = alignment.fit(np.array(frames[learned]), np.array(frames[tried]), rng)
            left = f"{report[camera]['left']:.0%} of a change of the camera is left"
            used = "images are aligned" if alignment.is_reliable else "its background does not serve, and is not used"
            context.say(f"camera {camera}: {left}; {used}")
        context.write(report, "alignment.json")


def _some(rows: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.permutation(rows)[:most])
