"""The surprise of the mask predictor, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.worldmodel.toy import ENCODER, make_encoder
from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.inference import JepaInference
from worldmodel.encoders.jepa.masks import WholeFrames
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.surprise.clips import COPY, MODEL, Clips
from worldmodel.surprise.video import VideoSurprise, WindowConfig

CPU = torch.device("cpu")
WINDOWS = WindowConfig(frames=4, stride=1, contexts=(2,))


def make_clips(batch: int = 2, frames: int = 10, cameras: tuple[str, ...] = ("camera",), seed: int = 0) -> Clips:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (batch, frames, 32, 32, 3), dtype=np.uint8) for name in cameras}
    return Clips(images, np.zeros((batch, frames, 1), np.float32), np.zeros((batch, frames, 0), np.float32))


def make_predictor(targets: str = "layer_norm", levels: int = 1) -> JepaInference:
    torch.manual_seed(0)
    config = JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2, targets=targets, levels=levels)
    encoder = type(ENCODER)(**{**ENCODER.__dict__, "depth": levels})
    return JepaInference.of(Jepa(encoder, config)).eval()


def test_where_windows_lie() -> None:
    rows = WindowConfig(frames=4, stride=2, every=3, contexts=(2,)).rows(14)
    np.testing.assert_array_equal(rows, [[0, 2, 4, 6], [3, 5, 7, 9], [6, 8, 10, 12]])


@pytest.mark.parametrize("levels", [1, 2])
def test_it_is_the_error_of_the_hidden_frames(levels: int) -> None:
    predictor, clips = make_predictor(levels=levels), make_clips()
    target = make_encoder(seed=1, depth=levels)
    windows = WindowConfig(frames=6, stride=1, every=2, contexts=(2, 4))
    found = VideoSurprise(predictor, target, windows, CPU)(clips)
    assert found[MODEL].shape == found[COPY].shape == (2, 3)
    shown = torch.from_numpy(clips.images["camera"][:, 2:8])  # the second window: 3 layers of 16 tokens
    with_target = JepaInference.of(Jepa(target.config, predictor.config))
    with_target.encoder.load_state_dict(target.state_dict())
    wanted = with_target.features(shown)
    errors, copies = [], []
    for seen in (16, 32):
        predicted = predictor.predict(shown, torch.arange(seen, 48))
        errors.append((predicted - wanted[:, seen:]).abs().mean((1, 2)))
        last = wanted[:, seen - 16 : seen].repeat(1, (48 - seen) // 16, 1)
        copies.append((last - wanted[:, seen:]).abs().mean((1, 2)))
    np.testing.assert_allclose(found[MODEL][:, 1], torch.stack(errors).mean(0).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found[COPY][:, 1], torch.stack(copies).mean(0).numpy(), rtol=1e-5)


def test_cameras_count_alike_and_clips_do_not_mix() -> None:
    surprise = VideoSurprise(make_predictor(), make_encoder(), WINDOWS, CPU)
    both = make_clips(cameras=("a", "b"))
    apart = [surprise(Clips({"camera": images}, both.action, both.proprio))[MODEL] for images in both.images.values()]
    np.testing.assert_allclose(surprise(both)[MODEL], np.mean(apart, axis=0), rtol=1e-6)
    first = Clips({"a": both.images["a"][:1]}, both.action[:1], both.proprio[:1])
    np.testing.assert_allclose(surprise(first)[MODEL][0], apart[0][0], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"frames": 5}, r"frames 5 and contexts \[2\]: expected multiples of 2"),
        ({"contexts": (3,)}, r"contexts \[3\]: expected multiples of 2"),
    ],
)
def test_windows_are_whole_tubelets(options: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        VideoSurprise(make_predictor(), make_encoder(), WindowConfig(**{"contexts": (2,), **options}), CPU)


def test_targets_that_cannot_be_repeated_are_refused() -> None:
    with pytest.raises(UserError, match=r"jepa.targets=whiten.*: expected one of instance, layer_norm, standardise"):
        VideoSurprise(make_predictor("whiten"), make_encoder(), WindowConfig(), CPU)


@pytest.mark.parametrize("targets", ["instance", "layer_norm", "standardise"])
def test_targets_are_normalised_as_in_training(targets: str) -> None:
    """On the clips that the statistics are taken from, the error is the training's loss."""
    torch.manual_seed(0)
    jepa = Jepa(ENCODER, JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2, targets=targets)).eval()
    clips = make_clips(batch=3, frames=4)
    surprise = VideoSurprise(JepaInference.of(jepa), jepa.target, WindowConfig(4, 1, 1, (2,)), CPU)
    surprise.prepare([clips])
    mask = WholeFrames(0.5, "future")(3, 2, Grid(4, 4), np.random.default_rng(0))
    with torch.no_grad():
        loss = jepa(torch.from_numpy(clips.images["camera"]), [mask])["prediction"]
    assert surprise(clips)[MODEL].mean() == pytest.approx(float(loss), rel=1e-5)


def test_statistics_are_of_all_clips_of_the_sample() -> None:
    one, other = (VideoSurprise(make_predictor("standardise"), make_encoder(), WINDOWS, CPU) for _ in range(2))
    clips, more = make_clips(), make_clips(seed=1)
    one.prepare([clips, more])
    joined = np.concatenate([clips.images["camera"], more.images["camera"]])
    other.prepare([Clips({"camera": joined}, np.zeros((4, 10, 1), np.float32), np.zeros((4, 10, 0), np.float32))])
    np.testing.assert_allclose(one(clips)[MODEL], other(clips)[MODEL], rtol=1e-5)
    other.prepare([more])
    assert not np.allclose(one(clips)[MODEL], other(clips)[MODEL], rtol=1e-3)


def test_clips_that_are_too_short_are_refused() -> None:
    surprise = VideoSurprise(make_predictor(), make_encoder(), WindowConfig(), CPU)
    with pytest.raises(UserError, match=r"clips have 10 frames, and windows of 8 frames with stride 2 span 15"):
        surprise(make_clips())


@pytest.mark.parametrize("options", [{"stride": 0}, {"every": 0}, {"contexts": ()}, {"contexts": (8,)}])
def test_options_that_make_no_windows(options: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        WindowConfig(**options)
