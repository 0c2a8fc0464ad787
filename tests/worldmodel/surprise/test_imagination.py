"""The surprise of world models, computed by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.worldmodel.models.tokens.small import make_model as make_token_model
from tests.worldmodel.toy import make_episode, make_model
from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.models.contract import WorldModel
from worldmodel.surprise.clips import COPY, MODEL, Clips, pixel_difference
from worldmodel.surprise.imagination import ImaginationSurprise
from worldmodel.surprise.subject import untrained_model


def make_clips(number: int = 2) -> Clips:
    """Episodes of 13 frames in the toy world."""
    episodes = [make_episode(seed) for seed in range(number)]
    return Clips(
        {"camera": np.stack([e.images["camera"] for e in episodes])},
        np.stack([e.action for e in episodes]),
        np.stack([e.proprio for e in episodes]),
    )


@torch.no_grad()
@pytest.mark.parametrize("make", [make_model, make_token_model])
def test_it_is_the_distance_of_what_was_imagined(make: Callable[[], WorldModel]) -> None:
    model, clips, horizon, start = make(), make_clips(), 3, 4
    found = ImaginationSurprise(model, horizon)(clips)
    assert found[MODEL].shape == found[COPY].shape == (2, 13 - horizon)
    row, latents = 1, []
    for t in range(13):
        seen = Observation({"camera": clips.images["camera"][[row], t]}, clips.proprio[[row], t])
        action = torch.from_numpy(clips.action[[row], t - 1]) if t else None
        latents.append(model.observe(latents[-1] if latents else None, seen, action))
    imagined = model.imagine(latents[start], torch.from_numpy(clips.action[[row], start : start + horizon])[:, None])
    errors, copies = [], []
    for ahead in range(horizon):
        step = imagined.map(lambda part, h=ahead: part[:, 0, h])
        errors.append(float(model.distance(step, latents[start + ahead + 1])))
        copies.append(float(model.distance(latents[start], latents[start + ahead + 1])))
    assert found[MODEL][row, start] == pytest.approx(np.mean(errors), rel=1e-4)
    assert found[COPY][row, start] == pytest.approx(np.mean(copies), rel=1e-4)


def test_actions_matter_to_the_model_alone() -> None:
    model, clips = make_model(), make_clips()
    other = Clips(clips.images, -clips.action, clips.proprio)
    found, with_others = (ImaginationSurprise(model, 3)(each) for each in (clips, other))
    assert not np.allclose(found[MODEL], with_others[MODEL])
    np.testing.assert_array_equal(found[COPY], with_others[COPY])


def test_a_horizon_that_is_as_long_as_the_clip_is_refused() -> None:
    with pytest.raises(UserError, match=r"horizon 13: clips have 13 frames, expected at most 12"):
        ImaginationSurprise(make_model(), 13)(make_clips())


@pytest.mark.parametrize("make", [make_model, make_token_model])
def test_an_untrained_model_has_the_statistics_and_other_weights(make: Callable[[], WorldModel]) -> None:
    model = make()
    state = torch.random.get_rng_state()
    fresh = untrained_model(model, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for (name, ours), theirs in zip(model.named_buffers(), fresh.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    weights = [
        torch.cat([p.flatten() for p in each.parameters()]) for each in (model, fresh, untrained_model(model, 1))
    ]
    assert not torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])
    assert np.isfinite(ImaginationSurprise(fresh, 3)(make_clips())[MODEL]).all()


def test_pixels_differ_where_something_moves() -> None:
    images = np.zeros((1, 3, 2, 2, 3), np.uint8)
    images[0, 2, 0, 0] = 255
    clips = Clips({"camera": images}, np.zeros((1, 3, 1), np.float32), np.zeros((1, 3, 0), np.float32))
    np.testing.assert_allclose(pixel_difference(clips), [[0.0, 255 / 4]])
