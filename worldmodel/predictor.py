"""The action-conditioned predictor: a compact recurrent state that explains frozen features and rolls forward fast.

A planner evaluates thousands of imagined steps per decision, so what is rolled out is a vector, not a grid of tokens:

    e_t     = embed(z_t, p_t)               z: frozen features of a frame, p: proprioception, both standardised
    s_t     = correct(s⁻_t, e_t)            what has been seen up to t: frame-causal history
    s⁻_t+1  = advance(s_t, a_t)             what an action does
    ẑ, p̂    = read(s)                       back to features, where the goal is compared

The recursion predict-then-correct is PlaNet's (arXiv 1811.04551) without its noise; the target, frozen features of
the next frames, is V-JEPA 2-AC's (arXiv 2506.09985), and so are teacher forcing and the rollout loss.

Shapes: `B` sequences (any leading dimensions), `T` frames, `N` tokens of a frame, `D` their width, `P` proprioception,
`A` action, `W` state width.
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
        token_width: size that each frozen token is reduced to before tokens are joined.
        state_width: size of the recurrent state.
        hidden_width: hidden size of the residual blocks.
        depth: residual blocks in `advance`.
        history: frames of context that the state is built from.
    """

    token_width: int = 24
    state_width: int = 384
    hidden_width: int = 768
    depth: int = 2
    history: int = 3

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError(f"every size must be at least 1, got {self}")


class ResidualBlock(nn.Module):
    """x + mlp(norm(x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., W]` → `[..., W]`."""
        return x + self.outward(F.gelu(self.inward(self.norm(x)), approximate="tanh"))


class Predictor(nn.Module):
    """See the module's docstring. Everything that goes in and comes out is standardised (`worldmodel.features`)."""

    def __init__(self, config: PredictorConfig, num_tokens: int, token_size: int, proprio_size: int, action_size: int):
        super().__init__()
        self.config, self.num_tokens = config, num_tokens
        width, hidden, flat = config.state_width, config.hidden_width, num_tokens * config.token_width
        self.reduce = nn.Linear(token_size, config.token_width)
        self.join = nn.Sequential(nn.GELU(approximate="tanh"), nn.Linear(flat, width), ResidualBlock(width, width))
        self.proprio_in = nn.Linear(proprio_size, width)
        self.correct_in = nn.Linear(2 * width, width)
        self.correct_block = ResidualBlock(width, hidden)
        self.action_in = nn.Linear(action_size, width)
        self.advance_blocks = nn.ModuleList(ResidualBlock(width, hidden) for _ in range(config.depth))
        self.state_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.initial_state = nn.Parameter(torch.zeros(width))
        self.spread_out = nn.Sequential(
            ResidualBlock(width, width), nn.Linear(width, flat), nn.GELU(approximate="tanh")
        )
        self.restore = nn.Linear(config.token_width, token_size)
        self.proprio_out = nn.Linear(width, proprio_size)

    def embed(self, features: Tensor, proprio: Tensor) -> Tensor:
        """Features `[..., N, D]` and proprioception `[..., P]` → `[..., W]`."""
        return self.join(self.reduce(features).flatten(-2)) + self.proprio_in(proprio)

    def correct(self, prior: Tensor, embedding: Tensor) -> Tensor:
        """Take an observation into account: state `[..., W]` and embedding `[..., W]` → state."""
        return self.state_norm(self.correct_block(self.correct_in(torch.cat([prior, embedding], dim=-1))))

    def advance(self, state: Tensor, action: Tensor) -> Tensor:
        """One control step: state `[..., W]` and action `[..., A]` → state."""
        x = state + self.action_in(action)
        for block in self.advance_blocks:
            x = block(x)
        return self.state_norm(x)

    def read_features(self, state: Tensor) -> Tensor:
        """Features `[..., N, D]` of a state `[..., W]`."""
        return self.restore(self.spread_out(state).unflatten(-1, (self.num_tokens, -1)))

    def read_proprio(self, state: Tensor) -> Tensor:
        """Proprioception `[..., P]` of a state `[..., W]`."""
        return self.proprio_out(state)

    def observe(self, features: Tensor, proprio: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Run over a history of features `[B, T, N, D]`, proprio `[B, T, P]`, actions `[B, T-1, A]`.

        Returns:
            The states after each frame `[B, T, W]`, and those predicted just before it, from the second on
            `[B, T-1, W]`.
        """
        embeddings = self.embed(features, proprio)
        prior = self.initial_state.expand(features.shape[0], -1)
        states, priors = [], []
        for t in range(features.shape[1]):
            states.append(self.correct(prior, embeddings[:, t]))
            if t + 1 < features.shape[1]:
                prior = self.advance(states[-1], actions[:, t])
                priors.append(prior)
        before = torch.stack(priors, 1) if priors else prior.new_zeros(len(prior), 0, prior.shape[-1])
        return torch.stack(states, 1), before

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        """States `[..., H, W]` after each of `actions [..., H, A]`, open loop from `state [..., W]`."""
        states = []
        for t in range(actions.shape[-2]):
            state = self.advance(state, actions[..., t, :])
            states.append(state)
        return torch.stack(states, dim=-2)
