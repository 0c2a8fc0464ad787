"""The action-conditioned predictor: it carries the scene code and proprioception along, and says how they change.

A planner evaluates thousands of imagined steps per decision, so what is rolled out is a short vector, not a grid of
tokens:

    code_t+1, proprio_t+1 = code_t + Δcode, proprio_t + Δproprio
    Δcode, Δproprio, m_t+1 = f(code_t, proprio_t, m_t, a_t)

What nothing touches stays where it is by construction. The memory `m` holds what one picture cannot show (velocities,
contacts): over a history, f is run with the codes that were seen (teacher forcing), and what remains of it is m.

Targets are codes of real frames under the frozen encoder, as in V-JEPA 2-AC (arXiv 2506.09985), from which teacher
forcing and the rollout loss come too.

Shapes: `B` sequences (any leading dimensions), `T` frames, `Z` scene code, `P` proprioception, `A` action, `M` memory.
Codes, proprioception and actions are standardised.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
    """Shape of the predictor.

    Attributes:
        width: of the residual stream.
        hidden_width: hidden size of the residual blocks.
        depth: residual blocks per imagined control step.
        memory: size of m.
        history: frames of context that the memory is built from.
    """

    width: int = 256
    hidden_width: int = 512
    depth: int = 3
    memory: int = 32
    history: int = 3

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError(f"every size must be at least 1, got {self}")


@dataclasses.dataclass(frozen=True)
class Belief:
    """One or many moments: scene code `[..., Z]`, proprioception `[..., P]`, memory `[..., M]`."""

    code: Tensor
    proprio: Tensor
    memory: Tensor


@dataclasses.dataclass(frozen=True)
class Observed:
    """What a history leads to.

    Attributes:
        now: the belief at the last frame.
        predictions: what was expected just before each frame from the second on, `[B, T-1, ...]`.
    """

    now: Belief
    predictions: Belief


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
        carried = code_size + proprio_size
        self._sizes = [code_size, proprio_size, config.memory]
        self.inward = nn.Linear(sum(self._sizes) + action_size, config.width)
        self.blocks = nn.ModuleList(ResidualBlock(config.width, config.hidden_width) for _ in range(config.depth))
        self.change, self.remember = nn.Linear(config.width, carried), nn.Linear(config.width, config.memory)
        self.initial_memory = nn.Parameter(torch.zeros(config.memory))
        with torch.no_grad():
            self.change.weight.mul_(0.1)  # begins near "nothing changes", from where long rollouts can be learned

    def advance(self, belief: Belief, action: Tensor) -> Belief:
        """One control step under `action [..., A]`."""
        x = self.inward(torch.cat([belief.code, belief.proprio, belief.memory, action], dim=-1))
        for block in self.blocks:
            x = block(x)
        code, proprio = self.change(x).split(self._sizes[:2], dim=-1)
        return Belief(belief.code + code, belief.proprio + proprio, torch.tanh(self.remember(x)))

    def observe(self, codes: Tensor, proprio: Tensor, actions: Tensor) -> Observed:
        """Run over a history of codes `[B, T, Z]`, proprio `[B, T, P]`, actions `[B, T-1, A]`."""
        memory = self.initial_memory.to(codes).expand(len(codes), -1)
        expected = []
        for t in range(1, codes.shape[1]):
            expected.append(self.advance(Belief(codes[:, t - 1], proprio[:, t - 1], memory), actions[:, t - 1]))
            memory = expected[-1].memory
        nothing = Belief(codes[:, :0], proprio[:, :0], memory[:, None][:, :0])
        return Observed(Belief(codes[:, -1], proprio[:, -1], memory), _stack(expected) if expected else nothing)

    def rollout(self, belief: Belief, actions: Tensor) -> Belief:
        """Beliefs `[..., H, ·]` after each of `actions [..., H, A]`, open loop."""
        ahead = []
        for t in range(actions.shape[-2]):
            belief = self.advance(belief, actions[..., t, :])
            ahead.append(belief)
        return _stack(ahead)


def _stack(beliefs: list[Belief]) -> Belief:
    """Join beliefs along a new time axis, the last but one."""
    return Belief(*(torch.stack([getattr(b, f.name) for b in beliefs], -2) for f in dataclasses.fields(Belief)))
