"""What a camera contributes: keypoints and appearance embedding, standardised."""

from __future__ import annotations

import pytest
import torch

from tests.worldmodel.toy import COMPRESSION, ENCODER, STATE
from worldmodel.core.spec import CameraSpec
from worldmodel.models.keypoint.keypoints import explained_variance
from worldmodel.models.keypoint.view import View

PROPRIO, TOKENS = 2, 4 * 6


def make_view() -> View:
    torch.manual_seed(0)
    return View(CameraSpec("side", 32, 48), ENCODER, COMPRESSION, STATE, PROPRIO)


def some_tokens(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, TOKENS, COMPRESSION.channels, generator=torch.Generator().manual_seed(seed))


def test_a_state_is_standardised_and_its_parts_come_back() -> None:
    view, tokens = make_view(), some_tokens(200, 1)
    with torch.no_grad():
        raw = view.keypoints(tokens)
        view.appearance.calibrate(raw)
        states = view.from_raw(raw)
        view.calibrate(states, torch.zeros(200, PROPRIO), torch.randn(200, PROPRIO))
        state = view(tokens)
    assert state.shape == (200, STATE.size)
    torch.testing.assert_close(state.mean(0), torch.zeros(STATE.size), atol=1e-4, rtol=0)
    torch.testing.assert_close(state.std(0), torch.ones(STATE.size), atol=1e-3, rtol=0)
    keypoints, appearance = view.parts(state)
    torch.testing.assert_close(keypoints, raw[:, : 2 * STATE.keypoints])
    torch.testing.assert_close(appearance, view.appearance(raw))
    torch.testing.assert_close(appearance.norm(dim=1), torch.ones(200))


def test_calibration_notes_what_a_picture_shows_of_the_robot() -> None:
    view, proprio = make_view(), torch.randn(500, PROPRIO, generator=torch.Generator().manual_seed(2))
    read = torch.stack([proprio[:, 0], torch.zeros(500)], 1)
    view.calibrate(torch.randn(500, STATE.size), read, proprio)
    assert view.robot_readable.tolist() == pytest.approx([1.0, 0.0], abs=0.01)


def test_pictures_of_a_batch_do_not_know_each_other() -> None:
    view, tokens = make_view(), some_tokens(5, 3)
    torch.testing.assert_close(view(tokens)[2:3], view(tokens[2:3]))
    torch.testing.assert_close(view.keypoints.robot(tokens)[2:3], view.keypoints.robot(tokens[2:3]))


def test_what_never_varies_is_not_read_and_does_not_count() -> None:
    view = make_view()
    proprio = torch.stack([torch.linspace(-1, 1, 50), torch.zeros(50)], dim=1)
    assert explained_variance(proprio + 0.01, proprio).isnan().tolist() == [False, True]
    view.calibrate(torch.randn(50, STATE.size), proprio + 0.01, proprio)
    assert view.robot_readable[0] > 0.9 and view.robot_readable[1] == 0
