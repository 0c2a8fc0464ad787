"""The tokens family keeps the contract of world models, and what it remembers is what it saw."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.worldmodel.models.conformance import (
    ROBOTS,
    WorldModelConformance,
    draw_actions,
    observe_rows,
    picture_of,
)
from tests.worldmodel.models.tokens.small import SPEC, TRANSFORMER, TWO_CAMERAS, make_model
from worldmodel.core.errors import UserError
from worldmodel.models.contract import WorldModel
from worldmodel.models.tokens.model import TokenModel
from worldmodel.models.tokens.predictor import Moments


class InBlocks(WorldModelConformance):
    """What is predicted for a block of control steps may know all of the block's actions."""

    def steps_apart(self, model: WorldModel) -> int:
        assert isinstance(model, TokenModel)
        return 4  # of 5 steps in blocks of 2, the last begins a block


class TestTokens(InBlocks):
    def make(self) -> TokenModel:
        return make_model()


class TestTwoCameras(InBlocks):
    def make(self) -> TokenModel:
        return make_model(TWO_CAMERAS, window=3, positions="sincos", conditioning="adaln")


class TestWithoutProprioceptionOrPast(InBlocks):
    def make(self) -> TokenModel:
        return make_model(dataclasses.replace(SPEC, proprio_size=0), window=1, positions="learned")

    def test_what_it_cannot_read_is_told_in_words(self, model: WorldModel, *_: object) -> None:
        """Of no readings, none can be missing."""


def see(model: TokenModel, steps: int) -> tuple[list[Moments], list[torch.Tensor], object]:
    """Frames `[B, ·]` and standardised actions `[B, A]` of an episode, and what is known at its end."""
    frames, actions, latent = [], [], None
    for step in range(steps):
        action = draw_actions(model.spec, ROBOTS, seed=step) if step else None
        latent = model.observe(latent, observe_rows(model.spec, ROBOTS, step), action)
        frames.append(Moments(latent.tokens, latent.proprio))
        if action is not None:
            actions.append(model.normaliser.actions(action))
    return frames, actions, latent


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("steps", range(1, 8))
def test_imagines_from_the_frames_that_lie_whole_blocks_back(window: int, steps: int) -> None:
    model = make_model(window=window)
    frames, taken, latent = see(model, steps)
    actions = draw_actions(model.spec, ROBOTS, 4, 6)
    blocks = min((steps - 1) // 2, window - 1)
    cache = None
    if blocks:
        back = [steps - 1 - 2 * i for i in range(blocks, 0, -1)]
        context = Moments(*(torch.stack([getattr(frames[i], n) for i in back], 1) for n in ("tokens", "proprio")))
        between = torch.stack([torch.stack(taken[i : i + 2], 1) for i in back], 1)
        _, cache = model.predictor(context, between)
    expected = model.predictor.rollout(frames[-1], model.normaliser.actions(actions[:, 0]), cache)
    ahead = model.imagine(latent, actions)
    torch.testing.assert_close(ahead.tokens[:, 0], expected.tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ahead.proprio[:, 0], expected.proprio, rtol=1e-4, atol=1e-4)


def test_distance_is_the_mean_absolute_difference_weighted_by_token() -> None:
    model = make_model()
    seen = observe_rows(model.spec, 2, 0)
    latent, goal = model.observe(None, seen, None), model.goal(picture_of(observe_rows(model.spec, 1, 1)))
    goals = type(goal).cat([goal, goal])
    difference = (latent.tokens - goals.tokens).abs()
    torch.testing.assert_close(model.distance(latent, goals), difference.mean((1, 2)))
    model.token_weight.copy_(torch.tensor([4.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(model.distance(latent, goals), difference[:, 0].mean(1))


def test_cameras_stand_side_by_side_in_a_frame() -> None:
    model = make_model(TWO_CAMERAS)
    seen = observe_rows(model.spec, 1, 0)
    before = model.observe(None, seen, None).tokens
    assert before.shape[1] == 4 + 2  # 4 x 4 and 2 x 4 patches, two by two
    seen.images["wrist-1"][:] = 0
    after = model.observe(None, seen, None).tokens
    assert torch.equal(after[:, :4], before[:, :4]) and not torch.equal(after[:, 4:], before[:, 4:])


def test_a_pool_that_does_not_fit_is_refused() -> None:
    cameras = (dataclasses.replace(SPEC.cameras[0], name="odd", height=24),)
    with pytest.raises(UserError, match=r"tokens\.pool is 2: .* 3 x 4 patches of camera odd"):
        make_model(dataclasses.replace(SPEC, cameras=cameras))


def test_what_does_not_follow_is_refused() -> None:
    model = make_model()
    seen = observe_rows(SPEC, ROBOTS, 0)
    latent = model.observe(None, seen, None)
    for action in (None, torch.zeros(ROBOTS, 3), torch.zeros(1, 2)):
        with pytest.raises(UserError, match=r"expected \[B, 2\]"):
            model.observe(latent, seen, action)
    imagined = model.imagine(latent, draw_actions(SPEC, ROBOTS, 1, 1))
    with pytest.raises(UserError, match="imagined"):
        model.observe(imagined, seen, draw_actions(SPEC, ROBOTS))


def test_weights_below_zero_are_refused() -> None:
    model = make_model()
    model.check_weights()
    model.token_weight[0] = -1
    with pytest.raises(UserError, match="token_weight"):
        model.check_weights()


@pytest.mark.parametrize("changes", [{"width": 0}, {"width": 30, "heads": 4}, {"positions": "polar"},
                                     {"conditioning": "film"}, {"mlp_ratio": 0.0}])  # fmt: skip
def test_shapes_without_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        dataclasses.replace(TRANSFORMER, **changes)  # type: ignore[arg-type]
