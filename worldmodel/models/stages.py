"""The training stages of a world model. They run in order, and each uses the results of the previous ones.

Shapes: `R` rows of the recording, `H, W` height and width of a camera's images.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.core.files import write_json
from worldmodel.core.progress import Counting
from worldmodel.core.ranks import here
from worldmodel.data.clips import Split
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.base import Encoder
from worldmodel.models.contract import WorldModel
from worldmodel.training.trainer import Trainer, TrainerConfig, TrainingTask


@dataclasses.dataclass(frozen=True)
class TrainingContext:
    """Everything that all stages of a training share.

    Attributes:
        model: the model that is trained. Its encoder has its weights, and the rest is as `Family.build` made it.
        store: the recording.
        frames: images of the recording by camera, uint8 `[R, H, W, 3]`, read-only.
        split: the training episodes and the held-out episodes.
        held_out: number of held-out sequences that are reported on.
        encoder: the frozen encoder, on `device`.
        encoder_hash: hash of the encoder's weights.
        device: device of the training.
        folder: folder of the run. A stage keeps what it needs to resume in a folder of its own below.
        seed: seed of everything random.
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

    def write(self, report: Any, name: str) -> None:
        """Write a report to the file `name` in the run's folder. Of several ranks, the first one does."""
        if here().is_first:
            write_json(report, self.folder / name, indent=1)

    def train(self, task: TrainingTask, config: TrainerConfig, title: str, section: str, folder: Path) -> None:
        """Train `task` to its end, or resume its training.

        Args:
            task: the task.
            config: options of the trainer.
            title: title that the user sees.
            section: section of the command's options that `config` was read from.
            folder: folder of the log and the training state. The last task uses that of the run, others folders below.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.run_to_end(Trainer(task, config, folder, self.device, section), title)


class Stage(abc.ABC):
    """One stage. It keeps results for later stages in attributes, and later stages are constructed with it.

    Attributes:
        name: name that the user sees.
    """

    name: str

    @abc.abstractmethod
    def run(self, context: TrainingContext) -> None:
        """Train a part of `context.model`, or resume a killed run. Both give bit for bit the same result."""
