"""Poses after actions, as turning matrices by hand gives them."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.models.vjepa2_ac.pose import angles, moved, rotation

_ANGLE = st.floats(-3.0, 3.0)


def about(axis: int, angle: float) -> torch.Tensor:
    """The matrix of a turn about one axis."""
    matrix, (a, b) = torch.eye(3, dtype=torch.float64), [(1, 2), (2, 0), (0, 1)][axis]
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[b, a], matrix[a, b] = math.sin(angle), -math.sin(angle)
    return matrix


@given(_ANGLE, st.floats(-1.5, 1.5), _ANGLE)
def test_angles_are_about_fixed_axes_in_order(x: float, y: float, z: float) -> None:
    euler = torch.tensor([x, y, z], dtype=torch.float64)
    torch.testing.assert_close(rotation(euler), about(2, z) @ about(1, y) @ about(0, x))
    torch.testing.assert_close(angles(rotation(euler)), euler, atol=1e-6, rtol=0)


@given(st.lists(_ANGLE, min_size=6, max_size=6))
def test_an_action_moves_turns_after_the_pose_and_closes(turns: list[float]) -> None:
    pose = torch.tensor([[0.1, 0.2, 0.3, *turns[:3], 0.7]], dtype=torch.float64)
    action = torch.tensor([[0.05, -0.05, 0.0, *turns[3:], 0.5]], dtype=torch.float64)
    after = moved(pose, action)
    torch.testing.assert_close(after[0, :3], torch.tensor([0.15, 0.15, 0.3], dtype=torch.float64))
    torch.testing.assert_close(
        rotation(after[:, 3:6]), rotation(action[:, 3:6]) @ rotation(pose[:, 3:6]), atol=1e-6, rtol=0
    )
    assert float(after[0, 6]) == 1.0
    torch.testing.assert_close(moved(pose, torch.zeros_like(action))[:, [0, 1, 2, 6]], pose[:, [0, 1, 2, 6]])


def test_gradients_are_finite_where_angles_are_not_unique() -> None:
    action = torch.tensor([0, 0, 0, 0, math.pi / 2, 0, 0.0]).requires_grad_(True)
    moved(torch.zeros(7), action).sum().backward()
    assert action.grad is not None and bool(action.grad.isfinite().all())
