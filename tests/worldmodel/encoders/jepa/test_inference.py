"""The kept mask predictor: what it predicts, its checkpoint, and the memory that it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.worldmodel.toy import ENCODER, make_clips
from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.inference import JepaInference, load_jepa, save_jepa
from worldmodel.encoders.jepa.masks import Tube
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.vit import EncoderConfig

SMALL: dict[str, Any] = {"predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2}
DEEP = EncoderConfig(**{**ENCODER.__dict__, "depth": 2})


def make_jepa(**changes: Any) -> Jepa:
    torch.manual_seed(0)
    return Jepa(DEEP, JepaConfig(**{**SMALL, "targets": "layer_norm", **changes}))


@pytest.mark.parametrize("changes", [{}, {"levels": 2, "context_weight": 0.5}])
def test_predictions_are_those_of_training(changes: dict[str, Any]) -> None:
    """Their mean error is the loss, while the target encoder is still a copy of the context encoder."""
    jepa, clips = make_jepa(**changes), make_clips()
    mask = Tube(0.5)(3, 2, Grid(4, 4), np.random.default_rng(0))
    model = JepaInference.of(jepa)
    predicted = model.predict(clips, mask.hidden)
    wanted = torch.stack([row[tokens] for row, tokens in zip(model.features(clips), mask.hidden, strict=True)])
    torch.testing.assert_close((predicted - wanted).abs().mean(), jepa(clips, [mask])["prediction"])
    assert not predicted.requires_grad


def test_the_encoder_does_not_see_what_is_asked_for() -> None:
    model, clips = JepaInference.of(make_jepa()), make_clips()
    asked = torch.arange(16, 32)  # the second tubelet layer
    changed = clips.clone()
    changed[:, 2:] = 7
    torch.testing.assert_close(model.predict(changed, asked), model.predict(clips, asked))
    assert not torch.equal(model.predict(changed, asked[:8]), model.predict(clips, asked[:8]))
    few = model.predict(clips, asked, visible=torch.arange(4))
    assert few.shape == (3, 16, 32) and not torch.equal(few, model.predict(clips, asked))


def test_the_future_after_a_clip_is_asked_for_by_numbers_beyond_its_tokens() -> None:
    """It is the prediction of a longer clip whose last layer is hidden."""
    model, clips = JepaInference.of(make_jepa()), make_clips(frames=6)
    beyond = np.arange(32, 48)
    ahead = model.predict(clips[:, :4], beyond)
    torch.testing.assert_close(ahead, model.predict(clips, beyond))
    assert ahead.shape == (3, 16, 32)


def test_a_checkpoint_holds_context_encoder_and_mask_predictor(tmp_path: Path) -> None:
    jepa, clips = make_jepa(levels=2, context_weight=0.5), make_clips()
    with torch.no_grad():
        for parameter in jepa.target.parameters():
            parameter.add_(1.0)
    save_jepa(jepa, tmp_path, {"store": "a"})
    state = torch.random.get_rng_state()
    loaded = load_jepa(tmp_path)
    assert torch.equal(state, torch.random.get_rng_state())
    assert loaded.config == jepa.config and loaded.encoder.config == DEEP
    assert torch.equal(loaded.predict(clips, torch.arange(9)), JepaInference.of(jepa).predict(clips, torch.arange(9)))
    assert not any("target" in name for name in loaded.state_dict())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "jepa"


def num_bytes(*modules: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def test_a_third_of_the_weights_is_not_loaded() -> None:
    """With the encoder and predictor of `configs/pretrain.yaml`. Gradients and the optimiser's moments come on top."""
    jepa = Jepa(EncoderConfig(), JepaConfig())
    kept, all_of_it = num_bytes(JepaInference.of(jepa)), num_bytes(jepa)
    assert all_of_it - kept == num_bytes(jepa.target)
    assert kept / all_of_it < 2 / 3


@pytest.mark.parametrize(
    ("positions", "visible", "named"),
    [
        ([], None, r"positions have shape \[3, 0\]"),
        ([0.5], None, "type torch.float32: expected whole numbers"),
        ([-1], None, "below 0, or one twice"),
        ([2, 2], None, "below 0, or one twice"),
        ([[1], [2]], None, r"positions have shape \[2, 1\]"),
        (list(range(32)), None, r"positions leave \[0\] of 32 tokens visible"),
        ([[1], [2], [40]], None, r"positions leave \[31, 32\] of 32 tokens visible"),
        ([1], [32], "visible has token 32: expected numbers below 32"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(positions: Any, visible: Any, named: str) -> None:
    seen = None if visible is None else torch.tensor(visible)
    with pytest.raises(UserError, match=named):
        JepaInference.of(make_jepa()).predict(make_clips(), torch.tensor(positions), seen)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32, 3), (1, 4, 30, 32, 3), (1, 4, 32, 32), (0, 4, 32, 32, 3)])
def test_clips_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"clips have shape .*: expected \[B, T, H, W, 3\] with T a multiple of 2"):
        JepaInference.of(make_jepa()).features(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("jepa", {"loss": "l3"}, "loss 'l3' is unknown"),
        ("jepa", 3, "jepa is 3: expected its options"),
        ("encoder", {"kind": "pixels"}, "encoder of kind 'pixels': expected 'vit'"),
        ("jepa", None, "jepa is None: expected its options"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, key: str, value: Any, named: str) -> None:
    save_jepa(make_jepa(), tmp_path, {})
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, key: value}, indent=2) + "\n")
    with pytest.raises(UserError, match=named):
        load_jepa(tmp_path)


def test_a_folder_without_one_says_where_it_would_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no mask predictor at"):
        load_jepa(tmp_path)
