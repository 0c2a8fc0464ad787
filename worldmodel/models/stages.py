"""The training stages of a world model. They run in order, and each uses the results of the previous ones.

Shapes: `R` rows of the recording, `H, W` height and width of a camera's pictures.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.data.clips import Split
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.base import Encoder
from worldmodel.models.contract import WorldModel
from worldmodel.training.recordings import Counting
from worldmodel.training.trainer import Trainer, TrainerConfig, TrainingTask


@dataclasses.dataclass(frozen=True)
class TrainingContext:
    """What all stages of a training share.

    Attributes:
        model: what is trained; its encoder is in place, all else is as `Family.build` made it.
        store: the recording.
        frames: its pictures by camera, uint8 `[R, H, W, 3]`, read-only.
        split: the episodes to learn from, and those to report on.
        held_out: how many sequences of the latter are reported on.
        encoder: frozen, on `device`.
        encoder_hash: of its weights.
        device: where to train.
        folder: of the run; a stage keeps what it needs to go on in a folder of its own below.
        seed: of everything random.
        counting: shows progress.
        say: tells the user something, in one line.
        run_to_end: runs a trainer under a title, and shows its progress.
    """

    model: WorldModel
    store: TrajectoryStore
    frames: Mapping[str, NDArray[np.uint8]]
    split: Split
    held_out: int
    encoder: Encoder
    encoder_hash: str
    device: torch.device
    folder: Path
    seed: int
    counting: Counting
    say: Callable[[str], None]
    run_to_end: Callable[[Trainer, str], None]

    def train(self, task: TrainingTask, config: TrainerConfig, title: str, section: str, folder: Path) -> None:
        """Train `task` to its end, or go on training it.

        Args:
            task: what is trained.
            config: how.
            title: for the user.
            section: of the command's options, which `config` was read from.
            folder: where its log and its state are kept; that of the run for the last one, folders below for others.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.run_to_end(Trainer(task, config, folder, self.device, section), title)


class Stage(abc.ABC):
    """One stage. What it finds out for later ones, it keeps as an attribute, and they are made with it.

    Attributes:
        name: for the user.
    """

    name: str

    @abc.abstractmethod
    def run(self, context: TrainingContext) -> None:
        """Train a part of `context.model`, or go on where a killed run stopped; the same bits come of both."""
