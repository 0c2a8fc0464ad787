"""Predicts actions from a code, the code of a goal, and, unless it is behaviour cloning, the control steps to go.

A code is the decodable part of a latent (`worldmodel.models.contract.Decodable`). The network is a residual MLP on both
codes, their difference, and the number of steps. A long way needs other actions than a short one in the same direction.
Without the number of steps it is goal-conditioned behaviour cloning with goals in hindsight (Ghosh et al. 2019, arXiv
1912.06088).

Shapes: `B` rows, `D` numbers of a code, `C` control steps of a chunk of actions, `A` action dimensions, `W` width.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST_STD: Final = 1e-3  # of a number that hardly varies in the recording


@dataclasses.dataclass(frozen=True)
class InverseConfig:
    """Shape of the network.

    Attributes:
        chunk: control steps whose actions are predicted, C.
        width: width of the residual stream, W.
        depth: residual blocks.
        told_steps: whether it is told the number of control steps to the goal.
    """

    chunk: int = 12
    width: int = 160
    depth: int = 3
    told_steps: bool = True

    def __post_init__(self) -> None:
        if min(self.chunk, self.width, self.depth) < 1:
            raise ValueError(f"every size must be at least 1, got {self}")


class _Block(nn.Module):
    """x + mlp(norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inward, self.outward = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, W]` → `[B, W]`."""
        return x + self.outward(F.gelu(self.inward(self.norm(x)), approximate="tanh"))


class InverseNetwork(nn.Module):
    """See the module's docstring. `set_scales` comes before the training."""

    code_mean: Tensor
    code_std: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(self, config: InverseConfig, code_size: int, action_size: int) -> None:
        super().__init__()
        self.config = config
        self.inward = nn.Linear(3 * code_size + 2 * config.told_steps, config.width)
        self.blocks = nn.ModuleList(_Block(config.width) for _ in range(config.depth))
        self.outward = nn.Linear(config.width, config.chunk * action_size)
        with torch.no_grad():
            self.outward.weight.mul_(0.1)  # starts near the mean action
        for name, size in (("code", code_size), ("action", action_size)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def set_scales(self, codes: Tensor, actions: Tensor) -> None:
        """Standardise with the mean and the standard deviation of codes `[N, D]` and actions `[N, A]`."""
        for name, values in (("code", codes), ("action", actions)):
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            getattr(self, f"{name}_std").copy_(values.std(0).clamp_min(_LEAST_STD))

    def forward(self, codes: Tensor, goals: Tensor, steps: Tensor) -> Tensor:
        """Standardised actions `[B, C, A]` from codes `[B, D]` to goals `[B, D]` in `steps [B]` control steps."""
        here, there = ((part - self.code_mean) / self.code_std for part in (codes, goals))
        left = steps.float().clamp_min(1)[:, None]
        told = [left.log(), 1 / left] if self.config.told_steps else []
        x = self.inward(torch.cat([here, there, there - here, *told], dim=-1))
        for block in self.blocks:
            x = block(x)
        return self.outward(x).unflatten(-1, (self.config.chunk, -1)).float()

    def actions(self, codes: Tensor, goals: Tensor, steps: Tensor) -> Tensor:
        """The same in physical units."""
        return self(codes, goals, steps) * self.action_std + self.action_mean
