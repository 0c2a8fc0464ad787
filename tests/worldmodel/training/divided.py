"""Trainings that one process and several ranks run alike, and what they write down about every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.worldmodel.models.keypoint import test_appearance, test_keypoints, test_prediction_training
from tests.worldmodel.models.tokens import test_training
from tests.worldmodel.toy import ENCODER, SPEC, make_episode
from worldmodel.core.ranks import here, together
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.jepa.task import PretrainConfig, PretrainTask
from worldmodel.encoders.probe import ProbeData
from worldmodel.models.features import VariedTokens
from worldmodel.models.keypoint.appearance import AppearanceEmbedding
from worldmodel.models.keypoint.appearance_training import AppearanceTask
from worldmodel.models.keypoint.keypoint_training import KeypointTask, RobotTask
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.keypoint.prediction_training import PredictionTask, Recording
from worldmodel.training.parallel import DDP, FSDP, whole
from worldmodel.training.trainer import Trainer, TrainerConfig, TrainingTask

CPU = torch.device("cpu")
EPISODES = [make_episode(seed) for seed in range(24)]
FRAMES = np.concatenate([episode.images["camera"] for episode in EPISODES])
STATE = np.concatenate([episode.state for episode in EPISODES]).astype(np.float32)
PROBE = ProbeData(FRAMES[::4][:50], STATE[::4][:50], FRAMES[200:250], STATE[200:250])
BATCH, STEPS, STOP = 8, 4, 2


class Stop(Exception):
    """Ends a training in the middle."""


def clips(step: int) -> np.ndarray[Any, Any]:
    """This rank's share of 8 clips."""
    rng = np.random.default_rng([9, step])
    rows = 13 * rng.integers(24, size=(BATCH, 1)) + rng.integers(10, size=(BATCH, 1)) + np.arange(4)
    return FRAMES[here().share(rows)]


def canonical(step: int) -> np.ndarray[Any, Any]:
    return 255 - clips(step)


def pretraining(jepa: dict[str, Any], encoder: dict[str, Any], dressed: bool = False, **options: Any) -> PretrainTask:
    torch.manual_seed(0)
    sizes = JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2, **jepa)
    module = Jepa(dataclasses.replace(ENCODER, **encoder), sizes)
    config = PretrainConfig(momentum=0.9, smallest_spread=0, **options)
    return PretrainTask(module, config, clips, {"camera": PROBE}, 0, CPU, canonical if dressed else None)


def keypoints(**options: Any) -> KeypointTask:
    place = torch.linspace(-0.7, 0.7, 10).repeat(40)
    thing = torch.stack([place, -place], 1)
    robot = 1.4 * torch.rand(400, 2, generator=torch.Generator().manual_seed(1)) - 0.7
    tokens = test_keypoints.blob(thing, 0) + test_keypoints.blob(robot, 1)
    varied = VariedTokens(tokens[::7].flip(-1).numpy().astype(np.float16), 7)
    return test_keypoints.make_task((tokens, thing, robot), varied, **options)


def robot() -> TrainingTask:
    task = keypoints(kind=RobotTask, robot_width=8)
    task.module.requires_grad_(False)
    for part in task.module.encoder.robot_parts():
        part.requires_grad_(True)
    return task


def appearance() -> TrainingTask:
    raw, _ = test_appearance.recording()
    torch.manual_seed(0)
    embedding, sampler = AppearanceEmbedding(5, 2, 16), test_appearance.make_sampler(raw)
    embedding.calibrate(raw)
    held_out = sampler.sample(10**6, 64)
    return AppearanceTask(embedding, test_appearance.OPTIONS, raw, test_appearance.NONE, sampler, held_out, 64, CPU)


def prediction() -> TrainingTask:
    """With several heads, which learn from different parts of the recording, and noise."""
    proprio, actions = (np.concatenate([getattr(e, name) for e in EPISODES]) for name in ("proprio", "action"))
    position = torch.from_numpy(proprio) / 13 - 1
    states = torch.cat([torch.sin(position), torch.cos(position), position, position.flip(1)], 1)
    sizes = test_prediction_training.MODEL
    torch.manual_seed(0)
    model = KeypointModel(SPEC, dataclasses.replace(sizes, predictor=dataclasses.replace(sizes.predictor, heads=3)))
    config = dataclasses.replace(test_prediction_training.CONFIG, motion_noise=0.1)
    rows = np.arange(10)[:, None] + np.arange(5)

    def train_rows(step: int) -> np.ndarray[Any, Any]:
        return 13 * np.random.default_rng(step).integers(24, size=(BATCH, 1)) + np.arange(5)

    recording = Recording(states, proprio, actions)
    return PredictionTask(model, config, recording, train_rows, rows, 0, CPU)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A training: how its task is made, into how many parts its batches are divided, and how ranks divide it."""

    make: Callable[[], TrainingTask]
    accumulate: int = 1
    parallel: str = DDP


REGULARISED = {"targets": "standardise", "variance_weight": 1.0, "covariance_weight": 0.1}
DEEP = {"targets": "layer_norm", "levels": 2, "context_weight": 0.5, "visible_weight": 0.3}
VARIANTS = {
    "regularised": Variant(lambda: pretraining(REGULARISED, {}, two_lights=True), accumulate=2),
    "whitened": Variant(lambda: pretraining({"targets": "whiten"}, {}, dressed=True, colour_jitter=0.1)),
    "dropped": Variant(lambda: pretraining(DEEP, {"depth": 2, "drop_path": 0.5, "checkpointing": True})),
    "factorised": Variant(
        lambda: pretraining(
            {"targets": "instance"}, {"attention": "factorised", "temporal_depth": 1, "drop_path": 0.5}, image_share=0.5
        )
    ),
    "sharded": Variant(lambda: pretraining({**DEEP, **REGULARISED}, {"depth": 2}), parallel=FSDP),
    "robot": Variant(robot),
    "keypoints": Variant(keypoints),
    "appearance": Variant(appearance),
    "prediction": Variant(prediction),
    "tokens": Variant(test_training.make_task),
}


def run(name: str, folder: Path, stop_at: int | None = None, parallel: str | None = None) -> None:
    """Train a variant in `folder`, or go on, until `stop_at`. Writes what every step did to `steps.<rank>.pt`."""
    variant = VARIANTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    config = TrainerConfig(
        steps=STEPS, batch_size=BATCH, learning_rate=1e-4, final_learning_rate=1e-6, warmup=0.1, weight_decay=0.05,
        final_weight_decay=0.05, clip_norm=None, precision="fp32", log_every=1, evaluate_every=3,
        checkpoint_every_s=0 if stop_at else 1e9,
        accumulate=variant.accumulate,
    )  # fmt: skip
    task = variant.make()
    losses, after_step = task.losses, task.after_step
    found: dict[int, dict[str, Any]] = {}

    def noted(step: int, total: int, parts: int) -> Iterator[dict[str, Tensor]]:
        if step == stop_at:
            raise Stop
        found[step] = {"loss": 0.0}
        for values in losses(step, total, parts):
            found[step]["loss"] += values["loss"].item() / parts
            yield values

    def note_after(step: int, total: int) -> None:
        named = list(task.module.named_parameters())
        found[step]["gradients"] = {n: whole(p.grad).clone() for n, p in named if p.grad is not None}
        after_step(step, total)
        found[step]["weights"] = {n: whole(p.detach()).clone() for n, p in named}

    task.losses, task.after_step = noted, note_after  # type: ignore[method-assign]
    try:
        Trainer(task, config, folder, CPU, parallel=parallel or variant.parallel).run(name)
    except Stop:
        pass
    else:
        if here().is_first:
            torch.save(task.module.state_dict(), folder / "finished.pt")
    torch.save(found, folder / f"steps.{here().number}.pt")


def run_on_ranks(folder: Path) -> None:
    """Every variant, those that one process has begun, and those that one process will go on with."""
    with together(lambda message: None):
        for name in VARIANTS:
            run(name, folder / "ranks" / name)
        for name in ("regularised", "sharded"):
            run(name, folder / "from ranks" / name, stop_at=STOP)
            run(name, folder / "from one" / name)


def run_in_parts(folder: Path) -> None:
    """A training that every rank has a part of: stopped, and stopped and gone on with, divided as before or not."""
    with together(lambda message: None):
        run("sharded", folder / "stopped", stop_at=STOP)
        for parallel in (FSDP, DDP):
            run("sharded", folder / parallel, stop_at=STOP)
            run("sharded", folder / parallel, parallel=parallel)
