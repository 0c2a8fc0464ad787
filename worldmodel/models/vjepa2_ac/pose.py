"""Poses of an end effector, and how actions change them, as V-JEPA 2-AC counts them.

A pose has seven numbers: position [m], Euler angles about the fixed axes x, y and z in this order [rad], and how far
the gripper is closed, from 0 to 1. An action has the seven differences over one control step. Its rotation is applied
after that of the pose.

Shapes: `...` leading dimensions.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

POSE_SIZE: Final = 7
_LEAST_COSINE: Final = 1e-7  # keeps the gradient finite where two of the angles are not unique


def moved(poses: Tensor, actions: Tensor) -> Tensor:
    """Poses `[..., 7]` after `actions [..., 7]`."""
    place = poses[..., :3] + actions[..., :3]
    turned = rotation(actions[..., 3:6]) @ rotation(poses[..., 3:6])
    closed = (poses[..., 6:] + actions[..., 6:]).clamp(0, 1)
    return torch.cat([place, angles(turned), closed], dim=-1)


def rotation(euler: Tensor) -> Tensor:
    """Matrices `[..., 3, 3]` of Euler angles `[..., 3]` about x, y and z: R_z R_y R_x."""
    (sx, sy, sz), (cx, cy, cz) = euler.sin().unbind(-1), euler.cos().unbind(-1)
    rows = (
        torch.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], dim=-1),
        torch.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], dim=-1),
        torch.stack([-sy, cy * sx, cy * cx], dim=-1),
    )
    return torch.stack(rows, dim=-2)


def angles(matrices: Tensor) -> Tensor:
    """Euler angles `[..., 3]` about x, y and z of rotations `[..., 3, 3]`. That about y is from -90° to 90°."""
    cosine = torch.hypot(matrices[..., 0, 0], matrices[..., 1, 0]).clamp_min(_LEAST_COSINE)
    x = torch.atan2(matrices[..., 2, 1], matrices[..., 2, 2])
    y = torch.atan2(-matrices[..., 2, 0], cosine)
    z = torch.atan2(matrices[..., 1, 0], matrices[..., 0, 0])
    return torch.stack([x, y, z], dim=-1)
