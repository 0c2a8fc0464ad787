"""The surprise of a world model, which imagines what the actions lead to.

Shapes: `B` clips, `T` frames, `F` windows of a clip, `H` control steps ahead.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.models.contract import Latent, WorldModel
from worldmodel.surprise.clips import COPY, MODEL, Clips


class ImaginationSurprise:
    """Surprise = mean over h = 1 ... H of d(imagine(z_t, a_t ... a_{t+h-1}), z_{t+h}).

    z are observed latents, and d is the model's own distance. A window begins at every t. The control that copies has
    z_t in place of what is imagined.

    Args:
        model: the world model.
        horizon: control steps ahead, H.
    """

    def __init__(self, model: WorldModel, horizon: int) -> None:
        self._model, self._horizon = model, horizon

    def prepare(self, sample: Iterable[Clips]) -> None:
        """See `Measure.prepare`. The distance of a world model needs no statistics of the clips."""

    @torch.no_grad()
    def __call__(self, clips: Clips) -> dict[str, NDArray[np.float64]]:
        """Errors `[B, T - H]` of the model and of the control. Raises UserError for clips that are too short."""
        model, horizon, starts = self._model, self._horizon, clips.length - self._horizon
        if starts < 1:
            raise UserError(f"horizon {horizon}: clips have {clips.length} frames, expected at most {clips.length - 1}")
        action = torch.from_numpy(clips.action).to(model.device)
        latents = self._observe(clips, action)
        join = type(latents[0]).cat
        begin = join(latents[:starts])
        commands = torch.cat([action[:, t : t + horizon] for t in range(starts)])
        imagined = model.imagine(begin, commands[:, None])
        errors: dict[str, list[torch.Tensor]] = {MODEL: [], COPY: []}
        compact = [model.compact(latent) for latent in latents]
        still = join(compact[:starts])
        for ahead in range(horizon):
            observed = join(compact[ahead + 1 : ahead + 1 + starts])
            errors[MODEL].append(model.distance(_step(imagined, ahead), observed))
            errors[COPY].append(model.distance(still, observed))
        return {
            name: torch.stack(values).float().mean(0).unflatten(0, (starts, -1)).T.double().cpu().numpy()
            for name, values in errors.items()
        }

    def _observe(self, clips: Clips, action: torch.Tensor) -> list[Latent]:
        """The latent `[B, ...]` after every frame."""
        latents: list[Latent] = []
        for row in range(clips.length):
            seen = Observation({name: images[:, row] for name, images in clips.images.items()}, clips.proprio[:, row])
            before = latents[-1] if latents else None
            latents.append(self._model.observe(before, seen, action[:, row - 1] if row else None))
        return latents


def _step(imagined: Latent, ahead: int) -> Latent:
    """The latents `[B, ...]` of one control step of `imagined [B, 1, H, ...]`."""
    return imagined.map(lambda part: part[:, 0, ahead])
