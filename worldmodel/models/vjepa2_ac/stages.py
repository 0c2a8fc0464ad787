"""What `worldmodel.train family=vjepa2_ac` does: it reads official weights, and measures them on a recording.

Shapes: `P` pairs of frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from worldmodel.core.files import write_json
from worldmodel.data.clips import ClipSampler, Split
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.models.stages import Stage, TrainingContext
from worldmodel.models.vjepa2_ac.files import OfficialConfig, read_predictor, read_shape
from worldmodel.models.vjepa2_ac.model import AcModel, require_robot

# Pairs that distances are measured on. A ViT-g takes a second for a frame on a laptop.
_PAIRS: Final = 128


@dataclasses.dataclass(frozen=True)
class SeedConfig:
    """Options of the measurement.

    Attributes:
        seed: seed of the choice of pairs.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}: expected a whole number of at least 0")


@dataclasses.dataclass(frozen=True)
class AcOptions:
    """The sections of `worldmodel.train family=vjepa2_ac`. `configs/family/vjepa2_ac.yaml` explains each option."""

    predictor: OfficialConfig
    trainer: SeedConfig


def make_stages(options: AcOptions, store: TrajectoryStore, split: Split) -> Sequence[Stage]:
    """All stages. Raises UserError for a file without the predictor, and for a robot that does not fit."""
    require_robot(store.spec)
    read_shape(options.predictor)
    episodes = split.held_out if len(split.held_out) else split.train
    pairs = ClipSampler(store.episode_ends, 2, (1,), options.trainer.seed, episodes)
    return [OfficialStage(options.predictor), MeasureStage(pairs)]


class OfficialStage(Stage):
    """Reads the official weights."""

    name = "official weights"

    def __init__(self, config: OfficialConfig) -> None:
        self._config = config

    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        model = _model(context)
        model.predictor = read_predictor(self._config, model.predictor.grid)


class MeasureStage(Stage):
    """Measures how far frames are apart, and how well the next one is predicted, on held-out episodes.

    The predictor has seen other robots, perhaps at another rate. If its error is not below that of "nothing changes",
    it does not know this one, and plans with it make no sense.
    """

    name = "measurement"

    def __init__(self, pairs: ClipSampler) -> None:
        self._pairs = pairs

    @torch.no_grad()
    def run(self, context: TrainingContext) -> None:
        """See `Stage.run`."""
        model = _model(context).to(context.device)
        rows = self._pairs.sample(0, _PAIRS).rows  # [P, 2]
        (camera,) = context.frames
        changes, errors = [], []
        proprio, actions = (torch.from_numpy(context.store.column(name)) for name in ("proprio", "action"))
        with context.counting("encode pairs") as progress:
            for done, pair in enumerate(rows, 1):
                pixels = torch.from_numpy(context.frames[camera][pair]).to(context.device)
                before, after = model.tokens(pixels).split(1)
                action, pose = (values[pair[:1]].to(context.device) for values in (actions, proprio))
                predicted, _ = model.ahead(before, action, pose, None)
                changes.append(_difference(before, after))
                errors.append(_difference(predicted, after))
                progress(done, len(rows))
        change, error = float(torch.stack(changes).mean()), float(torch.stack(errors).mean())
        model.step_distance.fill_(change)
        write_json({"pairs": len(rows), "change": change, "error": error}, context.folder / "measured.json")
        context.say(f"one control step ahead: error {error:.3f}, and of no change {change:.3f}")
        model.cpu()


def _difference(tokens: Tensor, others: Tensor) -> Tensor:
    return (tokens - others).abs().mean()


def _model(context: TrainingContext) -> AcModel:
    assert isinstance(context.model, AcModel)
    return context.model
