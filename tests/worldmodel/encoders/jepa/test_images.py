"""Single images among the clips of pretraining."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.worldmodel.encoders.jepa.test_task import CPU, draw_clips, make_task, shape_at
from tests.worldmodel.toy import ENCODER, SPEC
from worldmodel.core.errors import UserError
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.jepa.task import PretrainConfig, PretrainTask


def test_some_steps_show_images_under_masks_of_their_own() -> None:
    task = make_task(image_share=0.5, image_masks=({"kind": "tube", "ratio": 0.75},), masks=({"kind": "temporal"},))
    batches = [task._draw(step, 0.0) for step in range(24)]
    images = [batch for batch in batches if batch.masks[0].hidden.shape[1] == 12]
    clips = [batch for batch in batches if batch.masks[0].hidden.shape[1] != 12]
    assert 6 <= len(images) <= 18
    for batch in images:
        assert batch.shown.shape[1] == ENCODER.tubelet_frames
        assert (batch.shown == batch.shown[:, :1]).all()
    assert all(batch.shown.shape[1] == 4 and batch.masks[0].hidden.shape[1] == 16 for batch in clips)
    assert [b.shown.shape for b in batches[:5]] == [task._draw(step, 0.0).shown.shape for step in range(5)]
    assert all(task.loss(step)["loss"].isfinite() for step in range(4))


def test_a_step_tells_how_many_frames_it_takes() -> None:
    options = {"image_share": 0.3, "lengths": (2, 4), "lengths_from": (0.0, 0.5)}
    task, config, steps = make_task(**options), PretrainConfig(**options), 40
    told = [config.frames_at(step, steps, 0, 4) for step in range(steps)]
    assert set(told[: steps // 2]) == {1, 2} and set(told[steps // 2 :]) == {1, 4}
    for step in range(0, steps, 3):
        whole = task._draw(step, step / steps)
        task._clips = lambda at: draw_clips(at)[:, : told[at]]
        cut = task._draw(step, step / steps)
        task._clips = draw_clips
        assert np.array_equal(whole.shown, cut.shown)
        assert all(torch.equal(a.hidden, b.hidden) for a, b in zip(whole.masks, cut.masks, strict=True))


def test_images_train_the_tubelet_of_single_images_and_clips_the_other_one() -> None:
    torch.manual_seed(0)
    encoder = dataclasses.replace(ENCODER, still_tubelet=True)
    options = PretrainConfig(
        image_share=0.5, masks=({"kind": "temporal"},), image_masks=({"kind": "tube", "ratio": 0.75},)
    )
    options.require_fit(encoder, SPEC.cameras, 4)
    jepa = Jepa(encoder, JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2, targets="layer_norm"))
    task = PretrainTask(jepa, options, draw_clips, {}, seed=0, device=CPU)
    frames = [shape_at(task, step, 4)[1] for step in range(12)]
    assert {1, 4} == set(frames)
    for step in (frames.index(1), frames.index(4)):
        jepa.zero_grad()
        task.loss(step)["loss"].backward()
        assert jepa.encoder.still is not None
        trained = [tubelet.weight.grad is not None for tubelet in (jepa.encoder.still, jepa.encoder.tubelet)]
        assert trained == [frames[step] == 1, frames[step] == 4]
    with pytest.raises(UserError, match=r"still_tubelet=true with pretrain\.image_share=0"):
        PretrainConfig().require_fit(encoder, SPEC.cameras, 4)
    with pytest.raises(UserError, match="single images have fewer pixels"):
        Jepa(encoder, JepaConfig(targets="pixels"))
