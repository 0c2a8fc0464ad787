"""The action-conditioned predictor: a compact recurrent state that explains frozen features and rolls forward fast.

A planner evaluates thousands of imagined steps per decision, so what is rolled out is a vector, not a grid of tokens:

    e_t            = embed(z_t, p_t)             z: compressed frozen features of a frame, p: proprioception
    s_t            = correct(s⁻_t, e_t)          what has been seen up to t: frame-causal history
    s⁻_t+1, p̂_t+1  = advance(s_t, p_t, a_t)      what an action does; p̂ = p + a learned change
    ẑ              = read(s)                     back to features, where the goal is compared

The recursion predict-then-correct is PlaNet's (arXiv 1811.04551) without its noise; the target, frozen features of
the next frames, is V-JEPA 2-AC's (arXiv 2506.09985), and so are teacher forcing and the rollout loss.

Shapes: `B` sequences (any leading dimensions), `T` frames, `K` compressed features, `P` proprioception, `A` action,
`W` state width. Features, proprioception and actions are standardised.
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
        state_width: size of the recurrent state.
        hidden_width: hidden size of the residual blocks.
        depth: residual blocks in `advance`.
        history: frames of context that the state is built from.
    """

    state_width: int = 256
    hidden_width: int = 512
    depth: int = 2
    history: int = 3

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError(f"every size must be at least 1, got {self}")


@dataclasses.dataclass(frozen=True)
class Belief:
    """What the predictor carries along: its state `[..., W]` and the proprioception `[..., P]` of that moment."""

    state: Tensor
    proprio: Tensor


@dataclasses.dataclass(frozen=True)
class Observed:
    """What a history leads to.

    Attributes:
        now: the belief after the last frame, `[B, W]` and `[B, P]`.
        predictions: what was expected just before each frame from the second on, `[B, T-1, W]` and `[B, T-1, P]`.
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
            self.outward.weight.mul_(0.3)  # begins near the identity, which long rollouts need

    def forward(self, x: Tensor) -> Tensor:
        """`[..., W]` → `[..., W]`."""
        return x + self.outward(F.gelu(self.inward(self.norm(x)), approximate="tanh"))


class Predictor(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: PredictorConfig, feature_size: int, proprio_size: int, action_size: int) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.state_width, config.hidden_width
        self.feature_in, self.proprio_in = nn.Linear(feature_size, width), nn.Linear(proprio_size, width)
        self.embed_block = ResidualBlock(width, hidden)
        self.correct_in = nn.Linear(2 * width, width)
        self.correct_block = ResidualBlock(width, hidden)
        self.action_in, self.advance_proprio_in = nn.Linear(action_size, width), nn.Linear(proprio_size, width)
        self.advance_blocks = nn.ModuleList(ResidualBlock(width, hidden) for _ in range(config.depth))
        self.state_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.initial_state = nn.Parameter(torch.zeros(width))
        self.read_block, self.feature_out = ResidualBlock(width, hidden), nn.Linear(width, feature_size)
        self.proprio_out = nn.Linear(width, proprio_size)
        self.proprio_from_action = nn.Linear(action_size, proprio_size, bias=False)

    def embed(self, features: Tensor, proprio: Tensor) -> Tensor:
        """Features `[..., K]` and proprioception `[..., P]` → `[..., W]`."""
        return self.embed_block(self.feature_in(features) + self.proprio_in(proprio))

    def correct(self, prior: Tensor, embedding: Tensor) -> Tensor:
        """Take an observation into account: state `[..., W]` and embedding `[..., W]` → state."""
        return self.state_norm(self.correct_block(self.correct_in(torch.cat([prior, embedding], dim=-1))))

    def advance(self, belief: Belief, action: Tensor) -> Belief:
        """One control step under `action [..., A]`."""
        x = belief.state + self.action_in(action) + self.advance_proprio_in(belief.proprio)
        for block in self.advance_blocks:
            x = block(x)
        state = self.state_norm(x)
        return Belief(state, belief.proprio + self.proprio_out(state) + self.proprio_from_action(action))

    def read(self, state: Tensor) -> Tensor:
        """Features `[..., K]` of a state `[..., W]`."""
        return self.feature_out(self.read_block(state))

    def observe(self, features: Tensor, proprio: Tensor, actions: Tensor) -> Observed:
        """Run over a history of features `[B, T, K]`, proprio `[B, T, P]`, actions `[B, T-1, A]`."""
        embeddings = self.embed(features, proprio)
        prior = self.initial_state.expand(len(features), -1)
        state = self.correct(prior, embeddings[:, 0])
        expected = []
        for t in range(1, features.shape[1]):
            expected.append(self.advance(Belief(state, proprio[:, t - 1]), actions[:, t - 1]))
            state = self.correct(expected[-1].state, embeddings[:, t])
        return Observed(Belief(state, proprio[:, -1]), _stack(expected, Belief(prior[:, None], proprio)))

    def rollout(self, belief: Belief, actions: Tensor) -> Belief:
        """Beliefs `[..., H, W]`, `[..., H, P]` after each of `actions [..., H, A]`, open loop."""
        ahead = []
        for t in range(actions.shape[-2]):
            belief = self.advance(belief, actions[..., t, :])
            ahead.append(belief)
        return _stack(ahead, belief)


def _stack(beliefs: list[Belief], like: Belief) -> Belief:
    """Join beliefs along a new time axis, the last but one; none of them makes an axis of length zero."""
    if not beliefs:
        return Belief(like.state[:, :0], like.proprio[:, :0])
    return Belief(torch.stack([b.state for b in beliefs], -2), torch.stack([b.proprio for b in beliefs], -2))
