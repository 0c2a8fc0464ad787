"""V-JEPA pretraining as a task: augmentation, schedule, health figures, collapse."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.worldmodel.toy import ENCODER, SPEC, make_clips, make_encoder, make_episode, make_trainer_config
from worldmodel.core.errors import UserError
from worldmodel.core.spec import CameraSpec
from worldmodel.encoders.jepa.batches import Light, show
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.jepa.task import PretrainConfig, PretrainTask, bytes_per_clip
from worldmodel.encoders.probe import ProbeData, probe_encoder
from worldmodel.encoders.vit import to_unit_range
from worldmodel.training.trainer import Trainer, TrainingStopped

CPU = torch.device("cpu")
EPISODES = [make_episode(seed) for seed in range(24)]
FRAMES = np.concatenate([e.images["camera"] for e in EPISODES])
STATE = np.concatenate([e.state for e in EPISODES]).astype(np.float32)
PROBE = ProbeData(FRAMES[::2][:100], STATE[::2][:100], FRAMES[200:], STATE[200:])


def clip_rows(step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    rng = np.random.default_rng([9, step])
    return 13 * rng.integers(24, size=(6, 1)) + rng.integers(10, size=(6, 1)) + np.arange(4)


def draw_clips(step: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return FRAMES[clip_rows(step)]


def make_task(probe: ProbeData | None = PROBE, **options: Any) -> PretrainTask:
    torch.manual_seed(0)
    jepa = Jepa(ENCODER, JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2, targets="layer_norm"))
    by_camera = {} if probe is None else {"camera": probe}
    return PretrainTask(jepa, PretrainConfig(**options), draw_clips, by_camera, seed=0, device=CPU)


def test_seed_and_step_alone_decide_the_loss() -> None:
    first, again = make_task(), make_task()
    losses = [first.loss(step)["loss"].item() for step in (3, 4)]
    assert again.loss(4)["loss"].item() == losses[1]
    assert losses[0] != losses[1]


def test_without_augmentation_a_clip_is_only_rescaled() -> None:
    frames = make_clips()
    clips = show(frames.numpy(), None, CPU)
    assert torch.equal(Light.draw(len(frames), 0.0, 0.0, np.random.default_rng(0)).apply(clips), to_unit_range(frames))


def seen(task: PretrainTask, step: int = 0) -> tuple[Tensor, Tensor | None]:
    """The clips that context and target encoder are shown at `step`; None where both see the same."""
    shown: list[tuple[Tensor, Tensor | None]] = []
    forward = task.module.forward

    def spy(clips: Tensor, masks: Any, seen_by_target: Tensor | None = None, progress: float = 1.0) -> Any:
        shown.append((clips, seen_by_target))
        return forward(clips, masks, seen_by_target, progress)

    task.module.forward = spy  # type: ignore[method-assign]
    task.loss(step)
    return shown[0]


def test_a_clip_is_mirrored_whole_or_not_at_all() -> None:
    count = 0
    for step in range(8):
        plain = to_unit_range(torch.from_numpy(FRAMES[clip_rows(step)]))
        augmented, _ = seen(make_task(jitter=0.0), step)
        mirrored = [torch.equal(a, p.flip(2)) for a, p in zip(augmented, plain, strict=True)]
        kept = [torch.equal(a, p) for a, p in zip(augmented, plain, strict=True)]
        assert all(m != k for m, k in zip(mirrored, kept, strict=True))
        count += sum(mirrored)
    assert 12 <= count <= 36


def test_with_a_canonical_recording_the_target_sees_that() -> None:
    dressed = 255 - FRAMES
    for share, context in ((0.0, dressed), (1.0, FRAMES)):
        task = make_task(jitter=0.0, flip=False, canonical_share=share)
        task._clips, task._canonical = lambda step: dressed[clip_rows(step)], draw_clips
        clips, target = seen(task)
        rows = clip_rows(0)
        assert torch.equal(clips, to_unit_range(torch.from_numpy(context[rows])))
        assert target is not None and torch.equal(target, to_unit_range(torch.from_numpy(FRAMES[rows])))


def test_the_encoder_that_is_trained_is_kept() -> None:
    task = make_task()
    assert task.kept is task.module.target
    task.module = Jepa(ENCODER, JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2, targets="pixels"))
    assert task.kept is task.module.encoder


def test_context_and_canonical_clip_are_mirrored_alike() -> None:
    task = make_task(jitter=0.0, canonical_share=0.0)
    task._canonical = draw_clips
    clips, target = seen(task)
    assert target is not None and torch.equal(clips, target)


def test_brightness_and_contrast_change_by_clip_and_not_by_frame() -> None:
    clips = make_clips(batch=20)
    plain = to_unit_range(clips)
    augmented = Light.draw(20, 0.2, 0.0, np.random.default_rng(0)).apply(plain)
    contrast = augmented.flatten(2).std(2) / plain.flatten(2).std(2)  # [clips, frames]
    torch.testing.assert_close(contrast, contrast[:, :1].expand_as(contrast), atol=1e-4, rtol=0)
    brightness = augmented.flatten(2).mean(2) - contrast * plain.flatten(2).mean(2)
    torch.testing.assert_close(brightness, brightness[:, :1].expand_as(brightness), atol=1e-4, rtol=0)
    for change in (contrast[:, 0] - 1, brightness[:, 0]):
        assert change.abs().max() <= 0.2 + 1e-4
        assert change.std() > 0.05


def test_a_tint_scales_each_channel_and_leaves_black_black() -> None:
    clips = torch.full((20, 4, 32, 32, 3), 100, dtype=torch.uint8)
    clips[:, :, 0] = 0
    tinted = Light.draw(20, 0.0, 0.3, np.random.default_rng(0)).apply(to_unit_range(clips))
    assert torch.equal(tinted[:, :, 0], torch.full_like(tinted[:, :, 0], -2))
    gain = (tinted[:, :, 1:] + 2) / (to_unit_range(clips)[:, :, 1:] + 2)
    torch.testing.assert_close(gain, gain[:, :1, :1, :1].expand_as(gain))
    assert gain[:, 0, 0, 0].std() > 0.05 and (gain - 1).abs().max() <= 0.3 + 1e-4


def test_in_two_lights_only_the_target_sees_the_other_one() -> None:
    """With one light, the loss is that of the same clips twice; with two, targets come from another version."""
    assert seen(make_task(two_lights=False))[1] is None
    clips, target = seen(make_task(two_lights=True))
    assert target is not None and (target - clips).abs().mean() > 0.05


@pytest.mark.parametrize(("step", "momentum"), [(0, 0.9), (50, 0.95), (100, 1.0)])
def test_the_target_follows_ever_more_slowly(step: int, momentum: float) -> None:
    task = make_task(momentum=0.9)
    jepa = task.module
    with torch.no_grad():
        jepa.encoder.norm.bias.add_(1.0)
    task.after_step(step, total=100)
    assert jepa.target.norm.bias[0].item() == pytest.approx(1 - momentum, abs=1e-6)


def test_the_probe_finds_what_pictures_show() -> None:
    measured = probe_encoder(make_encoder(), PROBE, CPU)
    assert measured["probe_r2_00"] > 0.5
    assert measured["probe_r2_01"] > 0.5
    assert "probe_r2_02" not in measured, "the third number of the state never changes"
    assert measured["probe_r2"] == pytest.approx((measured["probe_r2_00"] + measured["probe_r2_01"]) / 2)
    assert 1 <= measured["effective_rank"] <= 32
    assert measured["spread"] > 0.01


def test_a_blind_encoder_is_found_out() -> None:
    encoder = make_encoder()
    torch.nn.init.zeros_(encoder.tubelet.weight)
    measured = probe_encoder(encoder, PROBE, CPU)
    assert measured["probe_r2"] < 0.05
    assert measured["spread"] < 1e-3


def test_collapse_stops_training_with_advice() -> None:
    task = make_task()
    assert task.evaluate(10)["spread"] > 0.01
    torch.nn.init.zeros_(task.module.target.tubelet.weight)
    with pytest.raises(TrainingStopped, match=r"collapsed: spread 0\.00.* at step 20 .*0\.01.*jepa.variance_weight=1"):
        task.evaluate(20)


def test_without_recorded_state_nothing_is_probed() -> None:
    assert make_task(probe=None).evaluate(10) == {}


def test_pretraining_lowers_its_loss_and_moves_the_target(tmp_path: Path) -> None:
    task = make_task()
    before = [p.clone() for p in task.module.target.parameters()]
    first = np.mean([task.loss(step)["prediction"].item() for step in range(5)])
    config = make_trainer_config(40, 6, 2e-3)
    Trainer(task, config, tmp_path, CPU).run("pretrain")
    last = np.mean([task.loss(step)["prediction"].item() for step in range(5)])
    assert last < 0.95 * first
    assert any(not torch.equal(a, b) for a, b in zip(before, task.module.target.parameters(), strict=True))


def test_clips_of_different_steps_may_be_of_different_cameras() -> None:
    """One is square, the other is not: the same encoder, predictor and masks serve both."""
    task = make_task()
    wide = np.concatenate([FRAMES, FRAMES[:, :, :16]], axis=2)
    task._clips = lambda step: (FRAMES, wide)[step % 2][clip_rows(step)]
    task._probe = {"square": PROBE, "wide": PROBE}
    values = [task.loss(step)["loss"] for step in range(2)]
    assert all(value.isfinite() for value in values)
    measured = task.evaluate(2)
    assert {"square/probe_r2", "wide/probe_r2", "square/spread"} <= set(measured)
    task._probe = {"square": PROBE, "wide": ProbeData(PROBE.train_pixels, STATE[:100], FRAMES[:20] * 0, STATE[:20])}
    with pytest.raises(TrainingStopped, match="the features of camera wide have collapsed"):
        task.evaluate(3)


@pytest.mark.parametrize("options", [{"masks": ()}, {"momentum": float("nan")}, {"jitter": -0.1}, {"probe_frames": 1}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PretrainConfig(**options)


def test_checkpointing_keeps_less_of_a_clip() -> None:
    """34 bytes per number and block, or 2 and once 34, beside the pixels."""
    deep, camera, pixels = dataclasses.replace(ENCODER, depth=12), CameraSpec("top", 32, 32), 8.0 * 4 * 32 * 32 * 3
    whole, again = (
        bytes_per_clip(dataclasses.replace(deep, checkpointing=given), camera, 4) - pixels for given in (False, True)
    )
    assert whole / again == pytest.approx(34 * 12 / (2 * 12 + 34))


def test_what_a_step_drops_depends_on_its_number_alone() -> None:
    torch.manual_seed(0)
    encoder = dataclasses.replace(ENCODER, depth=2, drop_path=0.5)
    jepa = Jepa(encoder, JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2))
    for parameter in jepa.parameters():  # initial weights are so small that the context hardly matters
        parameter.data += 0.2 * torch.randn_like(parameter)
    task = PretrainTask(jepa, PretrainConfig(), draw_clips, {}, seed=0, device=CPU)

    def losses() -> list[float]:
        return [float(task.loss(step)["loss"].detach()) for step in (3, 4)]

    jepa.train()
    first = losses()
    torch.manual_seed(9)
    assert losses() == first
    jepa.eval()
    assert losses()[0] != first[0]


# --- parts, lengths, images, schedules -------------------------------------------------------------------------------


def gradients(task: PretrainTask, parts: int) -> list[Tensor]:
    task.module.zero_grad()
    for values in task.losses(3, 10, parts):
        (values["loss"] / parts).backward()
    return [p.grad.clone() for p in task.module.parameters() if p.grad is not None]


@pytest.mark.parametrize("parts", [2, 3, 6])
@pytest.mark.parametrize("masks", [(), ({"kind": "multiblock_official", "blocks": 2, "spatial_scale": 0.3},)])
def test_the_parts_of_a_batch_add_up_to_the_whole(parts: int, masks: tuple[dict[str, Any], ...]) -> None:
    """Targets are normalised by token, since statistics over the batch would differ between the parts."""
    options: dict[str, Any] = {"masks": masks} if masks else {}
    task = make_task(two_lights=True, colour_jitter=0.1, **options)
    whole, divided = gradients(task, 1), gradients(task, parts)
    assert len(whole) == len(divided) > 10
    for one, other in zip(whole, divided, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_an_accumulated_training_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    trained = {}
    for parts in (1, 3):
        task, folder = make_task(probe=None), tmp_path / str(parts)
        folder.mkdir()
        config = dataclasses.replace(make_trainer_config(3, 6, 1e-3), accumulate=parts, log_every=1)
        Trainer(task, config, folder, CPU).run("pretrain")
        trained[parts] = task.module
        assert len((folder / "log.jsonl").read_text().splitlines()) == 4
    for one, other in zip(trained[1].parameters(), trained[3].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def shape_at(task: PretrainTask, step: int, total: int) -> tuple[int, ...]:
    return task._draw(step, step / total).shown.shape


def test_clips_become_longer_as_training_goes_on() -> None:
    task = make_task(lengths=(2, 4), lengths_from=(0.0, 0.5))
    assert [shape_at(task, step, 4)[1] for step in range(4)] == [2, 2, 4, 4]
    assert np.array_equal(task._draw(1, 0.25).shown, draw_clips(1)[:, :2])
    assert all(values["loss"].isfinite() for values in task.losses(1, 4, 1))


def test_the_momentum_rises_linearly_where_asked() -> None:
    task = make_task(momentum=0.9, final_momentum=1.0, momentum_schedule="linear")
    with torch.no_grad():
        task.module.encoder.norm.bias.add_(1.0)
    task.after_step(20, total=100)
    assert task.module.target.norm.bias[0].item() == pytest.approx(1 - 0.92, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "frames", "named"),
    [
        ({"lengths": (2, 8), "lengths_from": (0, 0.5)}, 4, r"pretrain.lengths has 8, of clips of 4 frames"),
        ({"lengths": (3,), "lengths_from": (0,)}, 4, "expected multiples of 2 tubelet frames"),
        ({"masks": ({"kind": "temporal"},)}, 2, "the clip has 1 tubelet layers"),
        ({"masks": ({"kind": "temporal"},), "lengths": (2, 4), "lengths_from": (0, 0.5)}, 4, "1 tubelet layers"),
        ({"image_share": 0.5, "image_masks": ({"kind": "future_biased"},)}, 4, "1 tubelet layers"),
    ],
)
def test_what_clips_cannot_have_is_found_before_the_training(options: dict[str, Any], frames: int, named: str) -> None:
    with pytest.raises(UserError, match=named):
        PretrainConfig(**options).require_fit(ENCODER, SPEC.cameras, frames)


def test_what_clips_can_have_is_let_through() -> None:
    PretrainConfig(lengths=(2, 4), lengths_from=(0, 0.5), image_share=1.0).require_fit(ENCODER, SPEC.cameras, 4)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lengths": (2,)}, "lengths"),
        ({"lengths": (2, 4), "lengths_from": (0.0, 0.0)}, "ascend"),
        ({"lengths": (2, 4), "lengths_from": (0.1, 0.5)}, "begin with 0"),
        ({"image_masks": ()}, "image_masks is empty"),
        ({"image_share": 1.5}, "image_share"),
        ({"momentum_schedule": "step"}, "choose from cosine, linear"),
    ],
)
def test_impossible_schedules_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        PretrainConfig(**options)


def test_the_blocks_of_all_three_networks_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: dict[int, dict[str, Any]] = {}
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiled.update({id(module): options}))
    task = make_task()
    task.compile("inductor")
    jepa = task.module
    blocks = [*jepa.encoder.blocks, *jepa.target.blocks, *jepa.predictor.blocks]
    assert compiled == {id(block): {"backend": "inductor", "dynamic": True} for block in blocks}


def test_levels_are_not_read_off_compiled_blocks() -> None:
    encoder = dataclasses.replace(ENCODER, depth=2)
    jepa = Jepa(encoder, JepaConfig(predictor_width=16, predictor_depth=1, levels=2))
    with pytest.raises(UserError, match=r"compile 'eager' with jepa.levels 2: expected null"):
        PretrainTask(jepa, PretrainConfig(), draw_clips, {}, 0, CPU).compile("eager")


def test_the_default_training_is_the_one_of_before() -> None:
    """Losses and weights after five steps, as they were before masks, losses and schedules had options."""
    torch.manual_seed(0)
    jepa = Jepa(ENCODER, JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2))
    task = PretrainTask(jepa, PretrainConfig(), draw_clips, {}, 0, CPU)
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(make_trainer_config(5, 6, 1e-3), log_every=1)
        Trainer(task, config, Path(folder), CPU).run("pretrain")
        log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses == pytest.approx([0.591218, 0.550741, 0.585517, 0.554284, 0.572256], abs=2e-5)
