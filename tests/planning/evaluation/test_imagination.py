"""What plans promised beside what happened, where the model is right, and where it is not."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from planning.decision import Decision
from planning.evaluation import imagination
from planning.evaluation.imagination import Comparison, Watched, pixel_error
from planning.evaluation.media import imagined_frames
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.rollout import rollout
from planning.evaluation.task import Task
from planning.objectives import ObjectiveConfig
from planning.optimisers.cem import CEM, CEMConfig
from planning.strategy import ControllerConfig, Strategy
from tests.planning.point_mass import PointDecoder, PointEnv, PointLatent, PointModel, picture_of
from worldmodel.core.observation import Observation

STEPS, HORIZON = 6, 4


class Stuck(PointModel):
    """Believes that nothing ever moves."""

    def imagine(self, latent: PointLatent, actions: torch.Tensor) -> PointLatent:
        ahead = super().imagine(latent, actions)
        return dataclasses.replace(ahead, position=latent.position[:, None, None].expand_as(ahead.position))


def run(
    model: PointModel | None = None, decoder: PointDecoder | None = None, execute: int = HORIZON, steps: int = STEPS
) -> Comparison:
    """From the middle toward a goal at the right."""
    cem = CEM(CEMConfig(samples=48, iterations=3, elites=6, temperature=math.inf, initial_std=0.5, action_repeat=1))
    strategy = Strategy(cem, ObjectiveConfig(), ControllerConfig(horizon=HORIZON, execute=execute))
    goal = picture_of([0.9, 0.0])
    policy = WorldModelPolicy(PointModel() if model is None else model, strategy, torch.device("cpu"))
    watched = Watched(policy, PointDecoder() if decoder is None else decoder)
    task = Task((goal,), goal.images["camera"], np.zeros(2), 0, None, "a goal")
    rollout([PointEnv()], [task], watched, steps, look_at_end=True)
    return Comparison(watched)


def test_a_model_that_is_right_keeps_its_promises() -> None:
    comparison = run()
    promised = comparison.promised()
    assert len(comparison) == STEPS + 1
    # Plans were made at steps 0 and 4: the second one has two steps left.
    assert promised.pairs == [STEPS + 1, 2, 2, 1, 1]
    # Half a level of 8 bits, which is a hundredth of a metre.
    assert max(promised.pixels) < 1.5 and max(promised.features) < 0.02
    unchanged = promised.features_unchanged
    assert unchanged[0] == 0 and all(a < b for a, b in itertools.pairwise(unchanged))
    assert promised.pixels_unchanged[-1] > 5


def test_a_model_that_is_wrong_promises_no_more_than_that_nothing_changes() -> None:
    # All its plans cost the same, so that what it does is noise, and not nothing.
    promised = run(Stuck()).promised()
    assert promised.pixels[1:] == pytest.approx(promised.pixels_unchanged[1:], abs=1.0)
    assert promised.features[1:] == pytest.approx(promised.features_unchanged[1:], abs=0.02)
    assert promised.features[-1] > 0.02


def test_the_decoder_has_its_own_part_in_all_errors() -> None:
    promised = run(decoder=PointDecoder(off=(0.0, 0.5))).promised()
    assert promised.features[0] == pytest.approx(0.5 / 2**0.5, abs=0.02)
    assert promised.features[-1] == pytest.approx(promised.features[0], abs=0.03)


def test_the_plan_that_was_made_so_far_ahead_is_shown() -> None:
    every_step, seldom = run(execute=1), run(execute=HORIZON)

    def before(comparison: Comparison, ahead: int) -> list[int]:
        shown = [comparison.shown(step, ahead) for step in range(len(comparison))]
        return [-1 if one is None else one[0] for one in shown]

    assert before(every_step, 1) == [0, 1, 1, 1, 1, 1, 1]
    assert before(every_step, 3) == [0, 1, 2, 3, 3, 3, 3]
    assert before(every_step, 100) == [0, 1, 2, 3, 4, 4, 4]
    assert before(seldom, 1) == [0, 1, 2, 3, 4, 1, 2]
    shown = seldom.shown(3, 1)
    assert shown is not None
    np.testing.assert_allclose(shown[1]["camera"][..., :2].astype(int), seldom.seen["camera"][3, ..., :2], atol=1)


def test_a_run_without_plans_has_images_all_the_same() -> None:
    comparison = run(PointModel(broken_beyond=-1))
    assert comparison.shown(1, 1) is None
    assert comparison.promised().pairs == [STEPS + 1]
    assert len(list(imagined_frames(comparison, 2))) == STEPS + 1


def test_frames_show_what_happened_what_was_imagined_and_the_difference() -> None:
    comparison = run()
    frames = list(imagined_frames(comparison, 2))
    assert len(frames) == STEPS + 1
    height, width, _ = frames[0].shape
    assert {frame.shape for frame in frames} == {(height, width, 3)}
    assert height % 16 == width % 16 == 0 and (height, width) == (32 + 256, 3 * (256 + 16))
    frame, happened = frames[3][32:].astype(int), comparison.seen["camera"][3]
    np.testing.assert_array_equal(frame[100, 100], happened[0, 0])
    np.testing.assert_allclose(frame[100, 272 + 100], happened[0, 0], atol=1)
    np.testing.assert_array_equal(frame[100, 544 + 100], 255 - np.abs(frame[100, 100] - frame[100, 372]))
    assert frames[3][:32].min() < 128, "there are captions"


def test_cameras_are_below_one_another() -> None:
    comparison = run()
    comparison.seen["wide"] = np.zeros((STEPS + 1, 8, 16, 3), np.uint8)
    show = comparison.shown

    def shown(step: int, ahead: int):
        one = show(step, ahead)
        return None if one is None else (one[0], {**one[1], "wide": np.zeros((8, 16, 3), np.uint8)})

    comparison.shown = shown  # type: ignore[method-assign]
    assert next(imagined_frames(comparison, 1)).shape == (32 + 2 * 256, 3 * (512 + 16), 3)


def test_what_is_noted_of_a_long_run_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagination, "_MOST_STEPS", 3)
    comparison = run(execute=1)
    assert len(comparison) == 4
    monkeypatch.setattr(imagination, "_MOST_COMPARED", 2)
    assert comparison.promised().pairs[:2] == [4, 1]


def test_what_is_seen_is_copied_since_a_driver_writes_into_its_buffers_again() -> None:
    class Resting(imagination.Policy):
        def reset(self, tasks):
            pass

        def act(self, observation):
            return Decision.blind(np.zeros((1, 2), np.float32))

    watched = Watched(Resting(), PointDecoder())
    watched.reset([])
    pixels = np.full((1, 16, 16, 3), 7, np.uint8)
    watched.act(Observation({"camera": pixels}, np.zeros((1, 2), np.float32)))
    pixels[:] = 0
    assert (watched.seen[0].images["camera"] == 7).all() and watched.promises == []


def test_pixel_error_by_hand() -> None:
    zero, other = np.zeros((2, 1, 2, 3), np.uint8), np.zeros((2, 1, 2, 3), np.uint8)
    other[1, 0, 0] = 255
    np.testing.assert_allclose(pixel_error({"a": zero}, {"a": other}), [0, 255 / 2**0.5])
