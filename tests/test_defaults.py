"""One set of defaults: what is built without a configuration is what the commands build."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from envs.clips import ClipsConfig
from envs.collect import CollectConfig, ExploreConfig
from envs.dm_control import DmControlConfig
from envs.goal import GoalConfig as GoalImageConfig
from envs.physics_clips import ClipOptions
from envs.push import PushConfig
from planning.calibrate import CalibrateConfig
from planning.compare import CompareConfig
from planning.evaluate import EvaluateConfig
from planning.evaluation.manifest import ManifestConfig
from planning.hierarchy import HierarchyConfig
from planning.manifest import FreezeConfig
from planning.objectives import ObjectiveConfig
from planning.optimisers.cem import CEMConfig
from planning.policies.proposals import ProposalConfig
from planning.practise import PractiseConfig
from planning.registry import OPTIMISERS
from planning.remember import RememberConfig
from planning.rounds import RoundsConfig
from planning.run import RunConfig
from planning.strategy import ControllerConfig
from tests.source_tree import ROOT
from worldmodel.cli.command import as_plain, composed
from worldmodel.cli.composing import defaults_of
from worldmodel.core.configs import group_choices
from worldmodel.core.options import from_config
from worldmodel.data.augmentation import AugmentationConfig
from worldmodel.data.clips import ClipConfig
from worldmodel.data.videos.clips import VideoConfig
from worldmodel.data.videos.items import ReadingConfig
from worldmodel.data.videos.labelled import LabelledConfig
from worldmodel.decode import DecodeOptions
from worldmodel.encoders.export.rows import RowConfig
from worldmodel.encoders.jepa.objective import JepaConfig
from worldmodel.encoders.jepa.task import PretrainConfig
from worldmodel.encoders.probes.grid import GridConfig
from worldmodel.encoders.vit import EncoderConfig
from worldmodel.export import ExportOptions
from worldmodel.features import FeatureOptions
from worldmodel.inverse import InverseOptions
from worldmodel.landmarks import LandmarkOptions
from worldmodel.models.decoder.network import DecoderConfig
from worldmodel.models.decoder.training import DecodingConfig
from worldmodel.models.inverse.network import InverseConfig
from worldmodel.models.inverse.training import InverseData
from worldmodel.models.landmarks.landmarks import LandmarkConfig
from worldmodel.models.registry import FAMILIES
from worldmodel.models.tuning import TuningConfig
from worldmodel.physics import PhysicsOptions
from worldmodel.pretrain import PretrainOptions
from worldmodel.probe import ProbeOptions
from worldmodel.surprise.video import WindowConfig
from worldmodel.train import TrainOptions
from worldmodel.training.trainer import TrainerConfig

# Choices of the planner that are another choice, and the options in which they differ from it.
PRESETS = {
    "guided": ("cem", {"samples", "elites", "narrow_share"}),
    "two_spreads": ("cem", {"narrow_share"}),
}
# What reads the options of a command itself.
COMMANDS: dict[str, type[Any]] = {
    "calibrate": CalibrateConfig,
    "clips": ClipsConfig,
    "collect": CollectConfig,
    "compare": CompareConfig,
    "decode": DecodeOptions,
    "evaluate": EvaluateConfig,
    "export": ExportOptions,
    "features": FeatureOptions,
    "goal": GoalImageConfig,
    "landmarks": LandmarkOptions,
    "inverse": InverseOptions,
    "manifest": FreezeConfig,
    "physics": PhysicsOptions,
    "physics_clips": ClipOptions,
    "practise": PractiseConfig,
    "pretrain": PretrainOptions,
    "probe": ProbeOptions,
    "remember": RememberConfig,
    "rounds": RoundsConfig,
    "run": RunConfig,
    "train": TrainOptions,
}
# What reads a section or group, the group with the choice that the commands make.
SECTIONS: dict[str, type[Any]] = {
    "augmentation": AugmentationConfig,
    "clips": ClipConfig,
    "decoding": DecodingConfig,
    "encoder": EncoderConfig,
    "env": PushConfig,
    "explore": ExploreConfig,
    "grid": GridConfig,
    "episodes": InverseData,
    "head": InverseConfig,
    "jepa": JepaConfig,
    "labelled": LabelledConfig,
    "landmarks": LandmarkConfig,
    "manifest": ManifestConfig,
    "planner": ControllerConfig,
    "reading": ReadingConfig,
    "rows": RowConfig,
    "planner.objective": ObjectiveConfig,
    "planner.options": CEMConfig,
    "planner.proposals": ProposalConfig,
    "network": DecoderConfig,
    "pretrain": PretrainConfig,
    "sub_goals": HierarchyConfig,
    "trainer": TrainerConfig,
    "tuning": TuningConfig,
    "videos": VideoConfig,
    "windows": WindowConfig,
}
# Read beside the dataclass: what env and planner are called, and the evaluations to compare.
# Values that a command sets otherwise than the dataclass: pairs that no evaluation uses.
SET_OTHERWISE = {("calibrate", "manifest"): {"seed"}, ("rounds", "manifest"): {"seed"}}
READ_OTHERWISE = {"env": {"name"}, "planner": {"name"}, "compare": {"a", "b"}}


def sections_of(config: DictConfig, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted name and plain values of a configuration and of every section in it."""
    inner = {str(key): value for key, value in config.items() if isinstance(value, DictConfig)}
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    yield name, {str(key): value for key, value in values.items() if key not in inner}
    for key, section in inner.items():
        yield from sections_of(section, f"{name}.{key}".lstrip("."))


def differing(cls: type[Any], values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Values that are not the default that `cls` has for them, with that default."""
    made = from_config(cls, values, cls.__name__)
    fields = [f for f in dataclasses.fields(cls) if f.name in values and f.default is not dataclasses.MISSING]
    pairs = {f.name: (getattr(made, f.name), f.default) for f in fields}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def sections_of_family(name: str) -> dict[str, type[Any]]:
    """What reads the sections of a family of world models."""
    return typing.get_type_hints(FAMILIES.get(name).config)


@pytest.mark.parametrize("command", sorted(p.stem for p in (ROOT / "configs").glob("*.yaml")))
def test_the_defaults_of_a_command_are_those_of_its_dataclasses(command: str) -> None:
    sections = SECTIONS | (sections_of_family("keypoint") if command == "train" else {})
    given = ["env=push"] if command == "collect" else []  # which has to be chosen
    given += ["planner=cem"] if "planner" in defaults_of(command) else []  # in place of the environment's own
    for name, values in sections_of(composed(command, given)):
        beside = READ_OTHERWISE.get(name or command, set()) | SET_OTHERWISE.get((command, name), set())
        assert beside <= set(values)
        cls = sections[name] if name else COMMANDS[command]
        assert differing(cls, {k: v for k, v in values.items() if k not in beside}) == {}, name or command


@pytest.mark.parametrize("name", group_choices("family"))
def test_the_options_of_a_family_are_those_of_its_dataclasses(name: str) -> None:
    composed_sections = dict(sections_of(composed("train", [f"family={name}"])))
    assert composed_sections[""]["family"] == FAMILIES.get(name).name == name
    for section, cls in sections_of_family(name).items():
        assert differing(cls, composed_sections[section]) == {}, section


def test_the_other_choices_are_those_of_their_dataclasses() -> None:
    for name in set(group_choices("planner")) - {"auto"}:
        planner = composed("run", [f"planner={name}"]).planner
        entry = OPTIMISERS.get(planner.name)
        changed = differing(entry.config, as_plain(planner)["options"])
        assert (planner.name, set(changed)) == PRESETS.get(name, (name, set())), name
        assert set(planner.options) == {field.name for field in dataclasses.fields(entry.config)}, name
        assert differing(ObjectiveConfig, dict(planner.objective)) == {}, name
    # The default of `name` is made of domain and task, as in the file.
    _, values = next(sections_of(composed("run", ["env=dm_control"]).env))
    assert differing(DmControlConfig, {k: v for k, v in values.items() if k not in ("name", "family")}) == {}


def test_a_second_default_is_found() -> None:
    values = dict(composed("run", ["planner=cem"]).planner.options)
    assert differing(CEMConfig, {**values, "samples": 7, "elites": 3}) == {"samples": (7, 192), "elites": (3, 16)}
    _, values = next(sections_of(composed("pretrain", ["pretrain.masks=[{blocks:1,spatial_scale:0.5}]"]).pretrain))
    assert list(differing(PretrainConfig, values)) == ["masks"]
