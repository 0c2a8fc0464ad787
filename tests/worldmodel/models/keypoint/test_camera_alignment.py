"""A model sees what the camera of the recording would have shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.planning.toy_model import make_model
from tests.worldmodel.encoders.test_alignment import scene, seen, with_object
from worldmodel.core.goal import ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import ActionSpec, CameraSpec, EnvironmentSpec
from worldmodel.models import registry
from worldmodel.models.keypoint.camera_alignment import CHANGE_SIZE, AlignedFrames, CameraAlignment
from worldmodel.models.keypoint.model import KeypointModel

SIZE = 64
CAMERA = CameraSpec("camera", SIZE, SIZE)
SPEC = EnvironmentSpec(
    env="fixed",
    cameras=(CAMERA,),
    control_step_s=0.1,
    action=ActionSpec((-1.0, -1.0), (1.0, 1.0), ("m/s", "m/s")),
    proprio_size=2,
    state_size=2,
    simulator="none 1.0",
)
BACKGROUND = scene(5, SIZE, SIZE)
MOVED, LIT = (0.02, 0.04, -0.03, 0.02), (0.9, 1.0, 1.1)


def frames(count: int, seed: int) -> NDArray[np.uint8]:
    """The background behind a square at random places, `[count, H, W, 3]`."""
    rng = np.random.default_rng(seed)
    still = np.rint(BACKGROUND).astype(np.uint8)
    return np.stack([with_object(still, *map(int, rng.integers(0, 48, 2))) for _ in range(count)])


def changed(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([seen(image.astype(np.float64), MOVED, LIT) for image in images])


@pytest.fixture(scope="module")
def alignment() -> CameraAlignment:
    fitted = CameraAlignment(CAMERA)
    fitted.fit(frames(80, 0), frames(20, 1), np.random.default_rng(0))
    assert fitted.is_reliable
    return fitted


def test_images_of_the_recording_stay_as_they_are(alignment: CameraAlignment) -> None:
    images = torch.from_numpy(frames(30, 2))
    aligned, changes = alignment(images)
    assert bool((aligned == images).flatten(1).all(1).float().mean() >= 0.95)
    assert changes.shape == (30, CHANGE_SIZE)


def test_a_change_of_the_camera_is_taken_back(alignment: CameraAlignment) -> None:
    images = frames(10, 3)
    aligned, changes = alignment(torch.from_numpy(changed(images)))
    before = np.abs(changed(images).astype(float) - images).mean((1, 2, 3))
    after = np.abs(aligned.numpy().astype(float) - images).mean((1, 2, 3))
    assert bool((after < 0.25 * before).all())
    np.testing.assert_allclose(changes[:, :4], np.tile(MOVED, (10, 1)), atol=0.01)
    np.testing.assert_allclose(changes[:, 4:7], np.tile(LIT, (10, 1)), atol=0.03)


def test_who_shares_a_batch_makes_no_difference(alignment: CameraAlignment) -> None:
    images = torch.from_numpy(np.concatenate([changed(frames(3, 4)), frames(3, 5)]))
    together, changes = alignment(images)
    for row in range(len(images)):
        alone, change = alignment(images[row : row + 1])
        assert torch.equal(alone[0], together[row]) and torch.equal(change[0], changes[row])


def test_a_hint_changes_little(alignment: CameraAlignment) -> None:
    images = torch.from_numpy(changed(frames(6, 6)))
    _, first = alignment(images[:1])
    without, _ = alignment(images)
    with_hint, _ = alignment(images, first.expand(6, -1))
    assert float((without.float() - with_hint.float()).abs().mean()) < 0.5


def test_the_frames_of_another_day_are_aligned_when_they_are_asked_for(alignment: CameraAlignment) -> None:
    other_day = changed(frames(6, 9))
    rows = np.array([4, 1])
    seen_by_model = AlignedFrames(other_day, alignment)[rows]
    np.testing.assert_array_equal(seen_by_model, alignment(torch.from_numpy(other_day[rows]))[0].numpy())
    assert np.abs(seen_by_model.astype(float) - frames(6, 9)[rows]).mean() < 6


def test_noise_stays_noise(alignment: CameraAlignment) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8))
    assert torch.equal(alignment(noise)[0], noise)


def test_a_recording_without_a_fixed_background_is_not_aligned() -> None:
    wild = np.stack([np.rint(scene(seed, SIZE, SIZE)).astype(np.uint8) for seed in range(40)])
    alignment = CameraAlignment(CAMERA)
    alignment.fit(wild[:25], wild[25:], np.random.default_rng(0))
    assert not alignment.is_reliable
    images = torch.from_numpy(wild[:3])
    aligned, changes = alignment(images)
    assert aligned is images and not bool(changes.any())


def test_the_model_reads_goal_and_observation_alike_and_keeps_it_in_its_checkpoint(tmp_path: Path) -> None:
    model = make_model(SPEC, {"camera": frames(64, 7)}, alignment=True)
    model.save(tmp_path / "model", {})
    loaded = registry.load_model(str(tmp_path / "model"), torch.device("cpu"))
    assert isinstance(loaded, KeypointModel)
    plain, other = frames(1, 8), changed(frames(1, 8))
    proprio = np.zeros((1, 2), np.float32)
    for each in (model, loaded):
        original = each.goal(ImageGoal({"camera": plain[0]}))
        goal = each.goal(ImageGoal({"camera": other[0]}))
        first = each.observe(None, Observation({"camera": other}, proprio), None)
        second = each.observe(first, Observation({"camera": other}, proprio), None)
        torch.testing.assert_close(goal.state, first.state)
        assert float(each.distance(second, goal)) < 0.05
        assert goal.cameras is not None and goal.cameras.shape == (1, 1, CHANGE_SIZE)
        away = each.distance(goal, original)
        unaligned = each.between(original, _unaligned(each, other))
        assert float(away) < 0.5 * float(unaligned)


def _unaligned(model: KeypointModel, images: NDArray[np.uint8]):  # type: ignore[no-untyped-def]
    alignment = model.view("camera").alignment
    assert alignment is not None
    alignment.reliable.fill_(0.0)
    belief = model.goal(ImageGoal({"camera": images[0]}))
    alignment.reliable.fill_(1.0)
    return belief
