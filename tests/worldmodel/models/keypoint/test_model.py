"""What planning sees: encode, rollout, distance, and the checkpoint that they come from."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel.toy import MODEL, SPEC, make_episode, make_model
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.errors import UserError
from worldmodel.core.spec import ActionSpec, one_camera
from worldmodel.models.keypoint.model import WorldModel
from worldmodel.models.keypoint.predictor import Belief

CPU = torch.device("cpu")


@pytest.fixture
def model() -> WorldModel:
    return make_model()


def seen(frames: int = 3, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """A history of the toy world: pixels `[B, T, H, W, 3]`, proprio `[B, T, P]`, actions `[B, T-1, A]`."""
    episodes = [make_episode(seed) for seed in range(batch)]
    columns = [
        np.stack([e.columns[name][:frames] for e in episodes]) for name in ("images/camera", "proprio", "action")
    ]
    pixels, proprio, actions = map(torch.from_numpy, columns)
    return pixels, proprio, actions[:, : frames - 1]


def some_actions(batch: int = 2, samples: int = 5, horizon: int = 4) -> Tensor:
    return torch.randn(batch, samples, horizon, 2, generator=torch.Generator().manual_seed(5))


def parts_of(latent: Belief) -> tuple[Tensor, Tensor, Tensor]:
    return latent.code, latent.proprio, latent.motion


def test_the_rollout_compiles_as_one_graph(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced without generating code, which takes a minute: what breaks the graph would break it here."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager", fullgraph=True))
    latent, actions = model.encode(*seen()), some_actions()
    expected = parts_of(model.rollout(latent, actions))
    model.compile_rollout()
    for part, wanted in zip(parts_of(model.rollout(latent, actions)), expected, strict=True):
        torch.testing.assert_close(part, wanted)


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_encode_takes_any_length_of_history(model: WorldModel, frames: int) -> None:
    code, proprio, motion = parts_of(model.encode(*seen(frames)))
    assert (code.shape, proprio.shape, motion.shape) == ((2, MODEL.scene.size), (2, 2), (2, MODEL.scene.size))
    assert bool(motion.any()) == (frames > 1), "where an episode begins, nothing has moved yet"


def test_encode_sees_what_moved_and_is_not_confused_by_its_neighbours(model: WorldModel) -> None:
    pixels, proprio, actions = seen(3)
    code, _, motion = parts_of(model.encode(pixels, proprio, actions))
    earlier = pixels.clone()
    earlier[:, 1] = 0
    other = parts_of(model.encode(earlier, proprio, actions))
    assert torch.equal(other[0], code), "the code is of the last frame alone"
    assert not torch.equal(other[2], motion)
    torch.testing.assert_close(parts_of(model.encode(pixels[1:], proprio[1:], actions[1:]))[2], motion[1:])


def test_everything_goes_through_the_dataset_statistics(model: WorldModel) -> None:
    """Shifting and scaling what comes in, and the statistics with it, changes nothing."""
    pixels, proprio, actions = seen(3)
    latent = model.encode(pixels, proprio, actions)
    imagined = model.rollout(latent, some_actions())
    norm = model.normaliser
    for name in ("proprio", "action"):
        getattr(norm, f"{name}_mean").mul_(10).add_(3)
        getattr(norm, f"{name}_std").mul_(10)
    again = model.encode(pixels, 10 * proprio + 3, 10 * actions + 3)
    shifted = model.rollout(again, 10 * some_actions() + 3)
    for expected, actual in ((latent, again), (imagined, shifted)):
        for one, other in zip(parts_of(expected), parts_of(actual), strict=True):
            torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


def test_rollout_has_its_shape_and_treats_each_sample_alike(model: WorldModel) -> None:
    latent, actions = model.encode(*seen()), some_actions()
    imagined = model.rollout(latent, actions)
    assert imagined.code.shape == (2, 5, 4, MODEL.scene.size)
    assert imagined.proprio.shape == (2, 5, 4, 2)
    start = latent.map(lambda part: part[1:])
    single = model.rollout(start, actions[1:, 3:4])
    for one, all_of_them in zip(parts_of(single), parts_of(imagined), strict=True):
        torch.testing.assert_close(one, all_of_them[1:, 3:4])


def test_the_distance_is_its_equation(model: WorldModel) -> None:
    latent, goal = model.encode(*seen()), model.encode_goal(seen(5)[0][:, 4])
    imagined = model.rollout(latent, some_actions())
    distance = model.distance(imagined, goal)
    assert distance.shape == (2, 5, 4)
    scene, places = model.scene, 2 * MODEL.scene.keypoints
    weights = torch.ones(MODEL.scene.size)
    weights[places:] = 0.3
    for b, s, h in ((0, 0, 0), (1, 4, 3), (0, 2, 1)):
        difference = (imagined.code[b, s, h] - goal.code[b]) * scene.code_std * weights
        robot = (imagined.proprio[b, s, h] - goal.proprio[b]).pow(2) * scene.robot_readable
        expected = (difference.pow(2).sum() + 0.5**2 * robot.sum()).sqrt()
        assert distance[b, s, h].item() == pytest.approx(expected.item(), rel=1e-4)


def test_only_what_a_picture_shows_of_the_robot_counts(model: WorldModel) -> None:
    model.scene.robot_readable.copy_(torch.tensor([1.0, 0.0]))  # the second may be a velocity
    here, there = torch.zeros(MODEL.scene.size), torch.tensor([0.0, 7.0])
    assert model.between(Belief(here, here, there), Belief(here, here, torch.zeros(2))) < 1e-5
    assert model.between(Belief(here, here, there.flip(0)), Belief(here, here, torch.zeros(2))) > 1


def test_the_scene_is_at_its_own_goal_and_away_from_others(model: WorldModel) -> None:
    pixels, proprio, actions = seen(3)
    model.scene.robot_readable.zero_()
    latent = model.encode(pixels, proprio, actions)
    here = model.distance_now(latent, model.encode_goal(pixels[:, -1]))
    there = model.distance_now(latent, model.encode_goal(pixels[:, -1].flip(0)))
    assert here.shape == (2,)
    assert here.max() < 1e-5
    assert there.min() > 1e-4
    torch.testing.assert_close(there[0], there[1])  # symmetric: each is the other's goal


def test_gradients_flow_to_the_actions_when_asked(model: WorldModel) -> None:
    latent, goal = model.encode(*seen()), model.encode_goal(seen()[0][:, 0])
    actions = some_actions().requires_grad_()
    model.distance(model.rollout(latent, actions), goal)[..., -1].sum().backward()
    assert actions.grad is not None
    assert bool((actions.grad.abs().sum(-1) > 0).all()), "every action of every sample counts"
    with torch.no_grad():
        assert not model.rollout(latent, actions).code.requires_grad


def test_bf16_planning_is_close_to_full_precision(model: WorldModel) -> None:
    latent, goal, actions = model.encode(*seen()), model.encode_goal(seen()[0][:, 0]), some_actions()
    exact = model.distance(model.rollout(latent, actions), goal)
    model.precision = torch.bfloat16
    rounded = model.distance(model.rollout(latent, actions), goal)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


# --- checkpoints -------------------------------------------------------------------------------------------------


def test_a_saved_model_comes_back(tmp_path: Path, model: WorldModel) -> None:
    model.save(tmp_path, {"seed": 3})
    loaded = WorldModel.load(str(tmp_path), CPU)
    assert (loaded.spec, loaded.config) == (SPEC, MODEL)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    norm, original = loaded.normaliser.state_dict(), model.normaliser.state_dict()
    assert all(torch.equal(norm[name], original[name]) for name in original), "statistics are not rounded"
    before = model.distance(model.rollout(model.encode(*seen()), some_actions()), model.encode_goal(seen()[0][:, 0]))
    after = loaded.distance(loaded.rollout(loaded.encode(*seen()), some_actions()), loaded.encode_goal(seen()[0][:, 0]))
    torch.testing.assert_close(after, before, rtol=1e-2, atol=1e-2)  # matrices are stored as float16


def test_saving_what_was_loaded_changes_no_bit(tmp_path: Path, model: WorldModel) -> None:
    model.save(tmp_path / "first", {})
    WorldModel.load(str(tmp_path / "first"), CPU).save(tmp_path / "second", {})
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


def test_the_encoder_is_frozen_and_its_hash_recorded(tmp_path: Path, model: WorldModel) -> None:
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert any(p.requires_grad for p in model.predictor.parameters())
    model.save(tmp_path, {})
    assert weights_hash(model.encoder) in (tmp_path / "config.json").read_text()


def with_action(**changes: Any) -> ActionSpec:
    return dataclasses.replace(SPEC.action, **changes)


@pytest.mark.parametrize(
    ("changes", "ours", "theirs"),
    [
        ({"env": "push"}, "env toy", "env push"),
        ({"cameras": one_camera(64)}, "cameras camera 32 x 32", "cameras camera 64 x 64"),
        ({"control_step_s": 0.05}, "control_step_s 0.1", "control_step_s 0.05"),
        ({"action": with_action(low=(-1.0, -4.0))}, "action_low (-4.0, -4.0)", "action_low (-1.0, -4.0)"),
        ({"action": with_action(high=(4.0, 5.0))}, "action_high (4.0, 4.0)", "action_high (4.0, 5.0)"),
        ({"action": with_action(rest=("hold", "zero"))}, "action rest ('zero', 'zero')", "rest ('hold', 'zero')"),
        ({"action": with_action(kinds=("continuous", "binary"))}, "('continuous', 'continuous')", "'binary')"),
        ({"proprio_size": 7}, "proprio_size 2", "proprio_size 7"),
    ],
)
def test_a_model_for_another_environment_is_refused_with_both_values(
    tmp_path: Path, model: WorldModel, changes: dict[str, Any], ours: str, theirs: str
) -> None:
    model.save(tmp_path, {})
    spec = WorldModel.load(str(tmp_path), CPU).spec
    with pytest.raises(UserError) as caught:
        spec.require_match(dataclasses.replace(SPEC, **changes), "the model", "the environment")
    message = str(caught.value)
    assert ours in message and theirs in message


def test_other_looks_and_simulator_versions_are_let_through(model: WorldModel) -> None:
    other = dataclasses.replace(SPEC, simulator="none 2.0", options={"distractors": True})
    model.spec.require_match(other, "the model", "the environment")
