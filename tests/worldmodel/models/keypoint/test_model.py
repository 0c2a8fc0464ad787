"""What planning sees of a keypoint model, and the checkpoint that it comes from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel.toy import MODEL, SIDE, SPEC, TOP, TWO_CAMERAS, make_episode, make_model
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal, TextGoal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import CAMERA, ActionSpec, EnvironmentSpec, one_camera
from worldmodel.models.keypoint.model import DistanceConfig, KeypointConfig, KeypointModel
from worldmodel.models.keypoint.predictor import Belief
from worldmodel.models.registry import load_model

CPU = torch.device("cpu")
Z = MODEL.state.size


@pytest.fixture
def model() -> KeypointModel:
    return make_model()


def seen(step: int, batch: int = 2, spec: EnvironmentSpec = SPEC) -> Observation:
    """What the robots of the toy world show at a control step."""
    episodes = [make_episode(seed, spec=spec) for seed in range(batch)]
    images = {camera: np.stack([e.images[camera][step] for e in episodes]) for camera in spec.camera_names}
    return Observation(images, np.stack([e.proprio[step] for e in episodes]))


def after(model: KeypointModel, steps: int = 3, batch: int = 2) -> Belief:
    """What is known once so many frames have been seen."""
    belief = None
    for step in range(steps):
        belief = model.observe(belief, seen(step, batch, model.spec), None)
    assert belief is not None
    return belief


def goals(model: KeypointModel, step: int = 0) -> Belief:
    """Pictures of that step as goals, one per robot."""
    observation = seen(step, spec=model.spec)
    return Belief.cat([model.goal(ImageGoal(observation.rows(row).images)) for row in range(2)])


def some_actions(batch: int = 2, samples: int = 5, horizon: int = 4) -> Tensor:
    return torch.randn(batch, samples, horizon, 2, generator=torch.Generator().manual_seed(5))


def parts_of(latent: Belief) -> tuple[Tensor, Tensor, Tensor]:
    return latent.state, latent.proprio, latent.motion


def test_imagination_compiles_as_one_graph(model: KeypointModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced without generating code, which takes a minute: what breaks the graph would break it here."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager", fullgraph=True))
    latent, actions = after(model), some_actions()
    expected = parts_of(model.imagine(latent, actions))
    model.compile_imagination()
    for part, wanted in zip(parts_of(model.imagine(latent, actions)), expected, strict=True):
        torch.testing.assert_close(part, wanted)


def test_motion_is_the_change_of_the_state_and_zero_where_an_episode_begins(model: KeypointModel) -> None:
    first = after(model, 1)
    assert (first.state.shape, first.proprio.shape, first.motion.shape) == ((2, Z), (2, 2), (2, Z))
    assert not first.motion.any()
    second = model.observe(first, seen(1), torch.zeros(2, 2))
    torch.testing.assert_close(second.motion, second.state - first.state, atol=1e-5, rtol=0)
    torch.testing.assert_close(second.state, model.observe(None, seen(1), None).state)
    assert bool(second.motion.any())
    assert not model.observe(second, seen(1), None).motion.any(), "what looks the same has not moved, to the last bit"


def test_every_frame_is_encoded_once(model: KeypointModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    whole = model.encoder.encode_frames
    monkeypatch.setattr(model.encoder, "encode_frames", lambda pixels: encoded.append(len(pixels)) or whole(pixels))
    after(model, 4)
    assert encoded == [2, 2, 2, 2]


def test_rows_can_be_taken_and_put_together(model: KeypointModel) -> None:
    belief, again = after(model, 2), after(model, 2).rows([1, 0])
    together = Belief.cat([belief.rows([0]), again.rows([0])])
    step = model.observe(together, seen(2), None)
    for part, wanted in zip(parts_of(step), parts_of(model.observe(belief, seen(2), None)), strict=True):
        torch.testing.assert_close(part, wanted)


def test_everything_goes_through_the_dataset_statistics(model: KeypointModel) -> None:
    """Shifting and scaling what comes in, and the statistics with it, changes nothing."""
    here = seen(0)
    latent = model.observe(None, here, None)
    imagined = model.imagine(latent, some_actions())
    norm = model.normaliser
    for name in ("proprio", "action"):
        getattr(norm, f"{name}_mean").mul_(10).add_(3)
        getattr(norm, f"{name}_std").mul_(10)
    again = model.observe(None, Observation(here.images, 10 * here.proprio + 3), None)
    shifted = model.imagine(again, 10 * some_actions() + 3)
    for expected, actual in ((latent, again), (imagined, shifted)):
        for one, other in zip(parts_of(expected), parts_of(actual), strict=True):
            torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


def test_imagination_has_its_shape_and_treats_each_sample_alike(model: KeypointModel) -> None:
    latent, actions = after(model), some_actions()
    imagined = model.imagine(latent, actions)
    assert imagined.state.shape == (2, 5, 4, Z)
    assert imagined.proprio.shape == (2, 5, 4, 2)
    single = model.imagine(latent.rows(slice(1, 2)), actions[1:, 3:4])
    for one, all_of_them in zip(parts_of(single), parts_of(imagined), strict=True):
        torch.testing.assert_close(one, all_of_them[1:, 3:4])


def test_the_distance_is_its_equation(model: KeypointModel) -> None:
    goal = goals(model, 4)
    imagined = model.imagine(after(model), some_actions())
    distance = model.distance(imagined, goal)
    assert distance.shape == (2, 5, 4)
    view, places = model.view(CAMERA), 2 * MODEL.state.keypoints
    weights = torch.ones(Z)
    weights[places:] = 0.3
    for b, s, h in ((0, 0, 0), (1, 4, 3), (0, 2, 1)):
        difference = (imagined.state[b, s, h] - goal.state[b]) * view.state_std * weights
        robot = (imagined.proprio[b, s, h] - goal.proprio[b]).pow(2) * view.robot_readable
        expected = (difference.pow(2).sum() + 0.5**2 * robot.sum()).sqrt()
        assert distance[b, s, h].item() == pytest.approx(expected.item(), rel=1e-4)


def test_only_what_a_picture_shows_of_the_robot_counts(model: KeypointModel) -> None:
    model.view(CAMERA).robot_readable.copy_(torch.tensor([1.0, 0.0]))  # the second may be a velocity
    here, there = torch.zeros(1, Z), torch.tensor([[0.0, 7.0]])
    nothing = Belief(here, here, torch.zeros(1, 2))
    assert model.distance(Belief(here, here, there), nothing) < 1e-5
    assert model.distance(Belief(here, here, there.flip(1)), nothing) > 1


def test_the_scene_is_at_its_own_goal_and_away_from_others(model: KeypointModel) -> None:
    model.view(CAMERA).robot_readable.zero_()
    latent, goal = after(model, 3), goals(model, 2)
    here, there = model.distance(latent, goal), model.distance(latent, goal.rows([1, 0]))
    assert here.shape == (2,)
    assert here.max() < 1e-5
    assert there.min() > 1e-4
    torch.testing.assert_close(there[0], there[1])  # symmetric: each is the other's goal


def test_gradients_flow_to_the_actions_when_asked(model: KeypointModel) -> None:
    latent, goal = after(model), goals(model)
    actions = some_actions().requires_grad_()
    model.distance(model.imagine(latent, actions), goal)[..., -1].sum().backward()
    assert actions.grad is not None
    assert bool((actions.grad.abs().sum(-1) > 0).all()), "every action of every sample counts"
    with torch.no_grad():
        assert not model.imagine(latent, actions).state.requires_grad


def test_bf16_planning_is_close_to_full_precision(model: KeypointModel) -> None:
    latent, goal, actions = after(model), goals(model), some_actions()
    exact = model.distance(model.imagine(latent, actions), goal)
    model.precision = torch.bfloat16
    rounded = model.distance(model.imagine(latent, actions), goal)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


# --- several cameras -------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> KeypointModel:
    """A model with two cameras of different shapes."""
    return make_model(spec=TWO_CAMERAS)


def test_the_state_is_that_of_all_cameras_one_after_the_other(pair: KeypointModel) -> None:
    belief = after(pair)
    assert belief.state.shape == (2, 2 * Z)
    assert pair.imagine(belief, some_actions()).state.shape == (2, 5, 4, 2 * Z)
    observation = seen(2, spec=TWO_CAMERAS)
    for camera, state in zip((TOP, SIDE), belief.state.split(Z, dim=-1), strict=True):
        alone = pair.view(camera)(pair.tokens(camera, torch.from_numpy(observation.images[camera])))
        torch.testing.assert_close(state, alone)


def test_the_distance_is_the_root_of_the_sum_over_cameras(pair: KeypointModel) -> None:
    latent, goal = after(pair), goals(pair, 4)
    squared = torch.zeros(2)
    for camera, state, wanted in zip((TOP, SIDE), *(x.state.split(Z, dim=-1) for x in (latent, goal)), strict=True):
        weights = torch.cat([torch.ones(6), torch.full((2,), 0.3)])
        squared += ((state - wanted) * pair.view(camera).state_std * weights).pow(2).sum(-1)
    readable = pair.view(TOP).robot_readable
    squared += 0.25 * ((latent.proprio - goal.proprio).pow(2) * readable).sum(-1)
    torch.testing.assert_close(pair.distance(latent, goal), squared.sqrt())


def test_of_every_reading_the_camera_that_shows_it_best_is_believed(pair: KeypointModel) -> None:
    pair.view(TOP).robot_readable.copy_(torch.tensor([0.9, 0.2]))
    pair.view(SIDE).robot_readable.copy_(torch.tensor([0.1, 0.6]))
    images = seen(0, spec=TWO_CAMERAS).rows(slice(0, 1)).images
    read = {c: pair.view(c).keypoints.robot(pair.tokens(c, torch.from_numpy(images[c])))[0] for c in (TOP, SIDE)}
    goal = goals(pair).rows(slice(0, 1))
    torch.testing.assert_close(goal.proprio[0], torch.stack([read[TOP][0], read[SIDE][1]]))
    moved = dataclasses.replace(goal, proprio=goal.proprio + torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(pair.distance(moved, goal)[0].item(), (0.25 * (4 * 0.9 + 9 * 0.6)) ** 0.5)


def test_what_one_camera_does_not_see_the_other_does(pair: KeypointModel) -> None:
    """A goal is at no distance only where all pictures look alike."""
    here, there = seen(0, spec=TWO_CAMERAS), seen(6, spec=TWO_CAMERAS)
    for view in (pair.view(TOP), pair.view(SIDE)):
        view.robot_readable.zero_()
    mixed = Observation({TOP: here.images[TOP], SIDE: there.images[SIDE]}, here.proprio)
    goal = goals(pair)
    assert pair.distance(pair.observe(None, here, None), goal).max() < 1e-5
    assert pair.distance(pair.observe(None, mixed, None), goal).min() > 1e-3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda o: Observation({TOP: o.images[TOP]}, o.proprio), "pictures of the cameras top: expected top, side"),
        (lambda o: Observation({**o.images, "wrist": o.images[TOP]}, o.proprio), "cameras side, top, wrist: expected"),
        (
            lambda o: Observation({TOP: o.images[SIDE], SIDE: o.images[SIDE]}, o.proprio),
            r"pictures of camera top are uint8 \[2, 32, 48, 3\]: expected uint8 \[B, 32, 32, 3\]",
        ),
        (
            lambda o: Observation({name: image / 255 for name, image in o.images.items()}, o.proprio),
            "camera top are float64",
        ),
        (lambda o: Observation(o.images, o.proprio[:, :1]), r"proprio is float32 \[2, 1\] beside pictures of 2 robots"),
        (lambda o: Observation(o.images, o.proprio[:1]), r"proprio is float32 \[1, 2\] beside pictures of 2 robots"),
        (lambda o: Observation({**o.images, TOP: o.images[TOP][:1]}, o.proprio), "beside pictures of 1, 2 robots"),
    ],
)
def test_an_observation_of_another_shape_is_refused_with_both(
    pair: KeypointModel, change: Callable[[Observation], Observation], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        pair.observe(None, change(seen(0, spec=TWO_CAMERAS)), None)


def test_a_goal_that_is_no_picture_is_refused(pair: KeypointModel) -> None:
    with pytest.raises(UserError, match="family keypoint cannot read a TextGoal: expected ImageGoal"):
        pair.goal(TextGoal("push the block"))
    with pytest.raises(UserError, match="pictures of the cameras top: expected top, side"):
        pair.goal(ImageGoal({TOP: seen(0).images[CAMERA][0]}))


@pytest.mark.parametrize("name", ["half", "train", "keys", "0", "a-b"])
def test_a_camera_may_have_any_name(tmp_path: Path, name: str) -> None:
    spec = dataclasses.replace(SPEC, cameras=one_camera(32, name))
    torch.manual_seed(0)
    KeypointModel(spec, MODEL).save(tmp_path, {})
    assert load_model(str(tmp_path), CPU).spec == spec


# --- checkpoints -------------------------------------------------------------------------------------------------


def test_a_saved_model_comes_back(tmp_path: Path, model: KeypointModel) -> None:
    model.save(tmp_path, {"seed": 3})
    loaded = load_model(str(tmp_path), CPU)
    assert isinstance(loaded, KeypointModel)
    assert (loaded.spec, loaded.config) == (SPEC, MODEL)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    norm, original = loaded.normaliser.state_dict(), model.normaliser.state_dict()
    assert all(torch.equal(norm[name], original[name]) for name in original), "statistics are not rounded"
    before, now = (m.distance(m.imagine(after(m), some_actions()), goals(m)) for m in (model, loaded))
    torch.testing.assert_close(now, before, rtol=1e-2, atol=1e-2)  # matrices are stored as float16


def test_saving_what_was_loaded_changes_no_bit(tmp_path: Path, model: KeypointModel) -> None:
    model.save(tmp_path / "first", {})
    load_model(str(tmp_path / "first"), CPU).save(tmp_path / "second", {})
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


def test_what_counts_as_reached_is_part_of_the_model(tmp_path: Path) -> None:
    fine = KeypointModel(SPEC, dataclasses.replace(MODEL, distance=DistanceConfig(reached=0.05)))
    fine.save(tmp_path, {})
    assert load_model(str(tmp_path), CPU).reached_distance == fine.reached_distance == 0.05
    older = MODEL.to_dict()
    del older["distance"]["reached"]
    assert KeypointConfig.from_dict(older, SPEC.cameras).distance.reached == 0.2
    with pytest.raises(ValueError, match=r"reached 0\.0 must be finite and above 0"):
        DistanceConfig(reached=0.0)


def test_only_the_predictor_is_trained_with_the_whole(model: KeypointModel) -> None:
    assert not any(p.requires_grad for part in (model.encoder, model.views) for p in part.parameters())
    assert all(p.requires_grad for p in model.predictor.parameters())


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
    tmp_path: Path, model: KeypointModel, changes: dict[str, Any], ours: str, theirs: str
) -> None:
    model.save(tmp_path, {})
    spec = load_model(str(tmp_path), CPU).spec
    with pytest.raises(UserError) as caught:
        spec.require_match(dataclasses.replace(SPEC, **changes), "the model", "the environment")
    message = str(caught.value)
    assert ours in message and theirs in message


def test_other_looks_and_simulator_versions_are_let_through(model: KeypointModel) -> None:
    other = dataclasses.replace(SPEC, simulator="none 2.0", options={"distractors": True})
    model.spec.require_match(other, "the model", "the environment")


# --- weights that are cast once --------------------------------------------------------------------------------------


def test_weights_that_are_cast_once_imagine_the_same_to_the_last_bit(model: KeypointModel) -> None:
    """Also after they have changed, and with gradients of the actions."""
    model.precision = torch.bfloat16
    latent = model.observe(None, seen(0, batch=1), None)
    actions = torch.randn(1, 5, 4, SPEC.action.size)

    def imagined() -> tuple[Belief, Belief]:
        once = model.imagine(latent, actions)
        model.train()  # where weights are cast in every evaluation
        always = model.imagine(latent, actions)
        model.eval()
        return once, always

    with torch.no_grad():
        once, always = imagined()
        assert torch.equal(once.state, always.state) and torch.equal(once.proprio, always.proprio)
        model.predictor.change.weight.mul_(2)
        changed, again = imagined()
        assert torch.equal(changed.state, again.state) and not torch.equal(changed.state, once.state)
    leaf = actions.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.imagine(latent, leaf).state.sum(), leaf)
    assert slope.isfinite().all() and bool((slope != 0).any())
    assert not any("cast" in name for name in model.state_dict())
