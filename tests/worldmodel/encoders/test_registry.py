"""Frozen encoders: random ones, and those in folders."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.commands import assert_refused, type_in
from tests.worldmodel.commands import TOY, TOY_ENV
from tests.worldmodel.toy import ENCODER, SPEC, make_clips
from worldmodel.core import registry
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.errors import UserError
from worldmodel.core.spec import CameraSpec, one_camera
from worldmodel.data import TrajectoryStore
from worldmodel.encoders.base import Encoder, PatchGrid
from worldmodel.encoders.pixels import PixelConfig
from worldmodel.encoders.registry import (
    ENCODERS,
    EncoderKind,
    describe_encoder,
    load_encoder,
    random_encoder,
    read_encoder_config,
    save_encoder,
)
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.registry import load_model


def test_a_random_encoder_is_its_seed_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (random_encoder(ENCODER, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert weights_hash(first) == weights_hash(again) != weights_hash(other)
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())


def test_an_encoder_comes_back_bit_for_bit(tmp_path: Path) -> None:
    encoder = random_encoder(ENCODER, 0)
    save_encoder(encoder, tmp_path, SPEC, {"trainer": {"steps": 3}})
    loaded = load_encoder(tmp_path, SPEC.cameras)
    clips = make_clips()
    assert loaded.config == ENCODER
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded(clips), encoder(clips))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["encoder_hash"] == weights_hash(loaded)
    assert config["environment"] == SPEC.to_dict()
    assert config["provenance"] == {"trainer": {"steps": 3}}


def test_an_encoder_of_videos_has_images_and_no_environment(tmp_path: Path) -> None:
    encoder = random_encoder(ENCODER, 0)
    save_encoder(encoder, tmp_path, one_camera(32), {})
    assert weights_hash(load_encoder(tmp_path, SPEC.cameras)) == weights_hash(encoder)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for cameras in ([], [{"name": "camera"}], "no list", None):
        path.write_text(json.dumps({**config, "cameras": cameras}, indent=2) + "\n")
        with pytest.raises(UserError, match=r"does not describe an encoder"):
            load_encoder(tmp_path, SPEC.cameras)


def test_a_folder_without_one_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python -m worldmodel\.pretrain.*encoder_from=random"):
        load_encoder(tmp_path / "nothing", SPEC.cameras)


def test_another_size_of_pictures_is_refused_with_both(tmp_path: Path) -> None:
    save_encoder(random_encoder(ENCODER, 0), tmp_path, SPEC, {})
    with pytest.raises(UserError, match=r"made for pictures of 32 x 32, camera side has 32 x 48"):
        load_encoder(tmp_path, [*one_camera(32), CameraSpec("side", 32, 48)])


def test_a_description_that_is_none_is_refused(tmp_path: Path) -> None:
    save_encoder(random_encoder(ENCODER, 0), tmp_path, SPEC, {})
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["encoder"]["colour"] = 1
    path.write_text(json.dumps(config, indent=2) + "\n")
    with pytest.raises(UserError, match=r"does not describe an encoder.*colour"):
        load_encoder(tmp_path, SPEC.cameras)


# --- kinds -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ColourConfig(PatchGrid):
    """A kind of our own, as another file would have it."""

    kind = "colours"
    features: int = 4

    @property
    def width(self) -> int:
        return self.features


class Colours(Encoder):
    """The mean colour of every patch, mapped linearly."""

    config: ColourConfig

    def __init__(self, config: ColourConfig) -> None:
        super().__init__()
        self.config = config
        self.mix = nn.Linear(3, config.features)

    def encode_frames(self, pixels: Tensor) -> Tensor:
        size = self.config.patch_size
        cut = pixels.float().unflatten(2, (-1, size)).unflatten(1, (-1, size))  # [B, G, p, G, p, 3]
        return self.mix(cut.mean((2, 4)) / 255).flatten(1, 2)


def ready_colours(grid: PatchGrid) -> Colours:
    """With weights as if they had been fetched."""
    encoder = Colours(ColourConfig(grid.patch_size))
    with torch.no_grad():
        encoder.mix.weight.copy_(torch.arange(12.0).reshape(4, 3).cos())
        encoder.mix.bias.zero_()
    return encoder


def test_another_kind_is_one_line_and_goes_all_the_way(
    toy_store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._registered["encoder"], "colours", EncoderKind(ColourConfig, Colours, ready_colours))
    few = ("trainer.steps=2", "state_trainer.steps=2", "appearance_trainer.steps=2")
    given = ("device=cpu", f"data={toy_store.path}", "encoder_from=colours", *TOY["worldmodel.train"], *few)
    ended = type_in(tmp_path, "worldmodel.train", *given)
    assert ended.code == 0, ended
    model = load_model(str(tmp_path / "runs" / "toy" / "model"), torch.device("cpu"))
    assert isinstance(model, KeypointModel)
    assert model.config.encoder == ColourConfig(8, features=4)
    assert isinstance(model.encoder, Colours)
    wanted = ready_colours(ENCODER)
    torch.testing.assert_close(model.encoder.mix.weight, wanted.mix.weight, atol=1e-3, rtol=0)  # kept as float16
    assert not any(p.requires_grad for p in model.encoder.parameters())
    save_encoder(wanted, tmp_path / "encoder", SPEC, {})
    assert weights_hash(load_encoder(tmp_path / "encoder", SPEC.cameras)) == weights_hash(wanted)


@pytest.mark.parametrize("config", [ENCODER, PixelConfig(8)], ids=lambda config: type(config).__name__)
def test_shapes_come_back_from_checkpoints_of_any_age(config: PatchGrid) -> None:
    assert read_encoder_config(describe_encoder(config), SPEC.cameras) == config
    before = {**dataclasses.asdict(config), "image_size": 32}  # neither kinds nor several cameras
    assert read_encoder_config(before, SPEC.cameras) == config


@pytest.mark.parametrize("size", [64, 0, -1, "32", [32], 10**30, True])
def test_a_size_that_is_not_that_of_the_pictures_is_refused(size: object) -> None:
    before = {**dataclasses.asdict(ENCODER), "image_size": size}
    with pytest.raises(UserError, match=r"its encoder has image_size .*, its environment pictures of 32 x 32"):
        read_encoder_config(before, SPEC.cameras)


@pytest.mark.parametrize(("kind", "said"), [("dino", "'dino': choose from dinov2, pixels, vit, vjepa2"), (3, "kind 3")])
def test_an_unknown_kind_is_refused(kind: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_encoder_config({"kind": kind}, SPEC.cameras)


def test_kinds_are_listed_under_the_name_that_they_bear() -> None:
    for name in ENCODERS.names():
        assert ENCODERS.get(name).config.kind == name


def test_an_encoder_of_format_1_is_read_and_its_hash_compared(tmp_path: Path) -> None:
    encoder = random_encoder(ENCODER, 0)
    save_encoder(encoder, tmp_path, SPEC, {})
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["digest"]
    config["format_version"] = 1
    config["encoder"] = {**dataclasses.asdict(ENCODER), "image_size": 32}
    path.write_text(json.dumps(config))
    assert weights_hash(load_encoder(tmp_path, SPEC.cameras)) == weights_hash(encoder)
    path.write_text(json.dumps({**config, "encoder_hash": "0" * 64}))
    with pytest.raises(UserError, match="its weights are not those that its encoder_hash was made of"):
        load_encoder(tmp_path, SPEC.cameras)


def test_only_vision_transformers_are_pretrained(
    toy_store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._registered["encoder"], "colours", EncoderKind(ColourConfig, Colours, ready_colours))
    ended = type_in(tmp_path, "worldmodel.pretrain", "encoder=colours", *TOY_ENV, f"data={toy_store.path}")
    assert_refused(ended, "encoder=colours is no vision transformer")
