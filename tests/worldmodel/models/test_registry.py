"""Families: one from a package of the user's own is trained, saved and loaded by the same commands as ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.commands import type_in
from tests.worldmodel.commands import TOY_ENCODER, TOY_ENV
from tests.worldmodel.models.conformance import WorldModelConformance
from tests.worldmodel.toy import ENCODER, SPEC, make_trainer_config
from worldmodel.core import registry
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.core.tensor_record import TensorRecord
from worldmodel.data import TrajectoryStore
from worldmodel.encoders.base import PatchGrid
from worldmodel.encoders.registry import build_encoder, describe_encoder, read_encoder_config
from worldmodel.models.contract import (
    SupportsConfidence,
    SupportsDecoding,
    SupportsReward,
    WorldModel,
)
from worldmodel.models.normaliser import Normaliser
from worldmodel.models.registry import FAMILIES, Family, load_model
from worldmodel.models.stages import Stage, TrainingContext
from worldmodel.training.trainer import TrainerConfig, TrainingTask


@dataclasses.dataclass(frozen=True)
class Means(TensorRecord):
    """The mean token of a picture, `[..., D]`."""

    mean: Tensor


class MeanModel(WorldModel):
    """mean_t+1 = mean_t + W a_t, of the first camera alone."""

    family = "means"

    def __init__(self, spec: EnvironmentSpec, encoder: PatchGrid) -> None:
        super().__init__(spec)
        self.encoder = build_encoder(encoder).requires_grad_(False)
        self.normaliser = Normaliser(spec.proprio_size, spec.action.size)
        self.step = nn.Linear(spec.action.size, encoder.width, bias=False)

    @torch.no_grad()
    def observe(self, previous: TensorRecord | None, observation: Observation, action: Tensor | None) -> Means:
        images, _ = self.read_observation(observation)
        return Means(self.encoder.encode_frames(images[self.spec.camera_names[0]]).mean(1))

    @torch.no_grad()
    def goal(self, goal: Goal) -> Means:
        images = self.read_image_goal(goal)
        return Means(self.encoder.encode_frames(images[self.spec.camera_names[0]]).mean(1))

    def imagine(self, latent: TensorRecord, actions: Tensor) -> Means:
        assert isinstance(latent, Means)
        with torch.autocast(actions.device.type, self.precision, enabled=self.precision != torch.float32):
            change = self.step(self.normaliser.actions(actions)).float()
        return Means(latent.mean[:, None, None] + change.cumsum(2))

    def distance(self, latents: TensorRecord, goal: TensorRecord) -> Tensor:
        assert isinstance(latents, Means) and isinstance(goal, Means)
        between = latents.mean.ndim - goal.mean.ndim
        return (latents.mean - goal.mean[(slice(None), *[None] * between)]).norm(dim=-1)

    @property
    def reached_distance(self) -> float:
        return 0.5

    def describe(self) -> dict[str, Any]:
        return {"encoder": describe_encoder(self.encoder.config)}


class MeanTask(TrainingTask):
    """Makes `step` small: enough to see that it has been trained."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def loss(self, step: int) -> dict[str, Tensor]:
        return {"loss": self.module.get_parameter("weight").pow(2).sum()}

    def evaluate(self, step: int) -> dict[str, float]:
        return {"size": float(self.loss(step)["loss"].detach())}


class MeanStage(Stage):
    name = "step"

    def __init__(self, config: TrainerConfig) -> None:
        self._config = config

    def run(self, context: TrainingContext) -> None:
        assert isinstance(context.model, MeanModel)
        context.model.normaliser.fit(context.store, context.split.train)
        context.say("the statistics are there")
        context.train(MeanTask(context.model.step), self._config, self.name, "trainer", context.folder)


TRAINER = make_trainer_config(5, 2, 0.1)


@dataclasses.dataclass(frozen=True)
class MeanOptions:
    """A world that only slides."""

    trainer: TrainerConfig = TRAINER


def build(spec: EnvironmentSpec, values: Mapping[str, Any]) -> MeanModel:
    return MeanModel(spec, read_encoder_config(values["encoder"], spec.cameras))


MEANS = Family(
    "means",
    MeanOptions,
    lambda options, encoder: {"encoder": describe_encoder(encoder)},
    build,
    lambda options, store, split: [MeanStage(options.trainer)],
)


@pytest.fixture(autouse=True)
def _plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered["family"], "means", MEANS)


class TestMeans(WorldModelConformance):
    """A family of thirty lines keeps the contract."""

    def make(self) -> WorldModel:
        torch.manual_seed(0)
        return MeanModel(SPEC, ENCODER).eval()


def test_a_family_of_ones_own_goes_all_the_way(toy_store: TrajectoryStore, tmp_path: Path) -> None:
    assert FAMILIES.names() == ["keypoint", "means", "tokens", "vjepa2_ac"]
    given = ("device=cpu", f"data={toy_store.path}", "encoder_from=random", *TOY_ENV, *TOY_ENCODER)
    ended = type_in(tmp_path, "worldmodel.train", "family=means", "family.trainer.steps=7", *given)
    assert ended.code == 0, ended
    assert "the statistics are there" in ended.out
    folder = tmp_path / "runs" / "toy" / "model"
    model = load_model(str(folder), torch.device("cpu"))
    assert isinstance(model, MeanModel)
    action = toy_store.column("action")
    assert model.normaliser.action_std[0].item() == pytest.approx(action[:, 0].std(), rel=0.2)
    untrained = MeanModel(SPEC, model.encoder.config)
    assert model.step.weight.abs().sum() < untrained.step.weight.abs().sum() * 1.5
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    latent = model.observe(None, Observation({"camera": pixels}, np.zeros((1, 2), np.float32)), None)
    assert model.imagine(latent, torch.zeros(1, 2, 3, 2)).mean.shape == (1, 2, 3, 32)


def test_a_family_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    MeanModel(SPEC, ENCODER).save(tmp_path, {})
    monkeypatch.delitem(registry._registered["family"], "means")
    with pytest.raises(ValueError, match="holds a model of family 'means': choose from keypoint, tokens, vjepa2_ac"):
        load_model(str(tmp_path), torch.device("cpu"))


def test_options_that_do_not_fit_each_other_are_refused() -> None:
    family, trainer = FAMILIES.get("means"), dataclasses.asdict(TRAINER)
    assert family.read_options({"trainer": trainer, "env": {}}) == MeanOptions()
    with pytest.raises(ValueError, match=r"unknown trainer option 'stepz'.*did you mean steps"):
        family.read_options({"trainer": {**trainer, "stepz": 1}})


def test_what_a_model_can_do_beside_the_contract_is_asked_for() -> None:
    torch.manual_seed(0)
    model = MeanModel(SPEC, ENCODER)
    assert not isinstance(model, SupportsConfidence | SupportsDecoding | SupportsReward)
    for method in ("confidence", "error_bound"):
        setattr(model, method, lambda latents: torch.ones(len(latents.mean)))
    assert isinstance(model, SupportsConfidence)
