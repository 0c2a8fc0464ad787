"""The action-conditioned predictor: it carries the scene code and proprioception along, and says how they change.

A planner evaluates thousands of imagined steps per decision, so what is rolled out is a short vector, not a grid of
tokens, and one evaluation of the network looks several control steps ahead (action blocks, as in DINO-WM, arXiv
2411.04983; but every step in between is predicted too):

    code_t+i, proprio_t+i = code_t + Δcode_i, proprio_t + Δproprio_i        i = 1 ... block
    Δcode, Δproprio = f(code_t, motion_t, proprio_t, a_t ... a_t+block-1)   motion_t = code_t - code_t-1

What nothing touches stays where it is by construction, and errors pile up per block instead of per step. `motion` is
what one picture cannot show; it is zero where an episode begins.

Targets are codes of real frames under the frozen encoder, as in V-JEPA 2-AC (arXiv 2506.09985), and so is the rollout
loss.

Shapes: `B` sequences (any leading dimensions), `H` control steps, `Z` scene code, `P` proprioception, `A` action.
Codes, proprioception and actions are standardised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
    """Shape of the predictor.

    Attributes:
        width: of the residual stream.
        hidden_width: hidden size of the residual blocks.
        depth: residual blocks per evaluation.
        block: control steps that one evaluation predicts.
    """

    width: int = 256
    hidden_width: int = 512
    depth: int = 3
    block: int = 4

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError(f"every size must be at least 1, got {self}")


@dataclasses.dataclass(frozen=True)
class Belief:
    """One or many moments: scene code `[..., Z]`, its last change `[..., Z]`, proprioception `[..., P]`."""

    code: Tensor
    motion: Tensor
    proprio: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Belief:
        """The same `change` of shape to all three."""
        return Belief(change(self.code), change(self.motion), change(self.proprio))

    def repeat(self, samples: int) -> Belief:
        """Moments `[B, ·]`, each `samples` times: `[B, samples, ·]`."""
        return self.map(lambda part: part[:, None].expand(-1, samples, -1))


class ResidualBlock(nn.Module):
    """x + mlp(norm(x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, hidden), nn.Linear(hidden, width)
        with torch.no_grad():
            self.outward.weight.mul_(0.3)  # begins near the identity

    def forward(self, x: Tensor) -> Tensor:
        """`[..., W]` → `[..., W]`."""
        return x + self.outward(F.gelu(self.inward(self.norm(x)), approximate="tanh"))


class Predictor(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: PredictorConfig, code_size: int, proprio_size: int, action_size: int) -> None:
        super().__init__()
        self.config = config
        self._sizes = [code_size, proprio_size]
        self.inward = nn.Linear(2 * code_size + proprio_size + config.block * action_size, config.width)
        self.blocks = nn.ModuleList(ResidualBlock(config.width, config.hidden_width) for _ in range(config.depth))
        self.change = nn.Linear(config.width, config.block * sum(self._sizes))
        with torch.no_grad():
            self.change.weight.mul_(0.1)  # begins near "nothing changes", from where long rollouts can be learned

    def advance(self, belief: Belief, actions: Tensor) -> Belief:
        """The `block` moments `[..., block, ·]` that follow under `actions [..., block, A]`."""
        x = self.inward(torch.cat([belief.code, belief.motion, belief.proprio, actions.flatten(-2)], dim=-1))
        for block in self.blocks:
            x = block(x)
        change = self.change(x).unflatten(-1, (self.config.block, -1)).float()
        code_change, proprio_change = change.split(self._sizes, dim=-1)
        codes = belief.code[..., None, :] + code_change
        motions = torch.diff(codes, dim=-2, prepend=belief.code[..., None, :])
        return Belief(codes, motions, belief.proprio[..., None, :] + proprio_change)

    def rollout(self, belief: Belief, actions: Tensor) -> Belief:
        """Moments `[..., H, ·]` after each of `actions [..., H, A]`, open loop. H need not be a multiple of `block`."""
        horizon, block = actions.shape[-2], self.config.block
        # What the last block is padded with lies beyond the horizon, and what comes of it is cut off again.
        padded = F.pad(actions, (0, 0, 0, -horizon % block))
        ahead = []
        for chunk in padded.split(block, dim=-2):
            ahead.append(self.advance(belief, chunk))
            belief = ahead[-1].map(lambda part: part[..., -1, :])
        joined = (torch.cat(parts, dim=-2)[..., :horizon, :] for parts in zip(*map(_parts, ahead), strict=True))
        return Belief(*joined)


def _parts(belief: Belief) -> tuple[Tensor, Tensor, Tensor]:
    return belief.code, belief.motion, belief.proprio
