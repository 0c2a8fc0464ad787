"""Frozen encoders: random ones, and those in folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from configs.command import UserError
from tests.worldmodel.toy import ENCODER, SPEC, make_clips
from worldmodel.checkpoint import weights_hash
from worldmodel.encoders import load_encoder, random_encoder, save_encoder


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
    loaded = load_encoder(tmp_path, 32)
    clips = make_clips()
    assert loaded.config == ENCODER
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded(clips), encoder(clips))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["encoder_hash"] == weights_hash(loaded)
    assert config["environment"] == SPEC.to_dict()
    assert config["provenance"] == {"trainer": {"steps": 3}}


def test_a_folder_without_one_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python -m worldmodel\.pretrain.*encoder_from=random"):
        load_encoder(tmp_path / "nothing", 32)


def test_another_image_size_is_refused_with_both(tmp_path: Path) -> None:
    save_encoder(random_encoder(ENCODER, 0), tmp_path, SPEC, {})
    with pytest.raises(UserError, match=r"image_size 32, the data has 64"):
        load_encoder(tmp_path, 64)


def test_a_description_that_is_none_is_refused(tmp_path: Path) -> None:
    save_encoder(random_encoder(ENCODER, 0), tmp_path, SPEC, {})
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["encoder"]["colour"] = "red"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not describe an encoder.*colour"):
        load_encoder(tmp_path, 32)
