"""The action-conditioned predictor of keypoint state and proprioception.

A planner evaluates thousands of imagined steps per decision. So the predictor rolls out a short vector instead of a
grid of tokens, and one evaluation of the network predicts several control steps. DINO-WM (arXiv 2411.04983) does the
latter too, but here every step in between is also predicted:

    state_t+i, proprio_t+i = state_t + Δstate_i, proprio_t + Δproprio_i      i = 1 ... n, the prediction steps
    Δstate, Δproprio = f(state_t, motion_t, proprio_t, a_t ... a_t+n-1)      motion_t = state_t - state_t-1

The network predicts changes, so an object that nothing touches stays in place if the output is zero. Errors accumulate
per evaluation instead of per step. `motion` holds what one image cannot show. It is zero at the start of an episode.

Targets are states of real frames under the frozen encoder. The targets and the rollout loss follow V-JEPA 2-AC
(arXiv 2506.09985).

Shapes: `B` sequences (any leading dimensions), `H` control steps, `n` prediction steps, `Z` state, `P` proprioception,
`A` action. States, proprioception and actions are standardised.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.core.tensor_record import TensorRecord


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
    """Shape of the predictor.

    Attributes:
        width: width of the residual stream.
        hidden_width: hidden size of the residual blocks.
        depth: residual blocks per evaluation.
        prediction_steps: control steps that one evaluation predicts, n.
    """

    width: int = 256
    hidden_width: int = 512
    depth: int = 3
    prediction_steps: int = 4

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError(f"every size must be at least 1, got {self}")


@dataclasses.dataclass(frozen=True)
class Belief(TensorRecord):
    """The latent state at one or many control steps.

    Attributes:
        state: keypoints and appearance embeddings `[..., Z]`.
        motion: the state's last change `[..., Z]`.
        proprio: proprioception `[..., P]`.
        tokens: compressed tokens of all cameras `[..., N, C]` of an observation. None in imagined states.
    """

    state: Tensor
    motion: Tensor
    proprio: Tensor
    tokens: Tensor | None = None

    def imagined(self) -> Belief:
        """The same belief without tokens, from which a rollout starts."""
        return Belief(self.state, self.motion, self.proprio)

    def repeat(self, samples: int) -> Belief:
        """Beliefs `[B, samples, ·]`, each of `[B, ·]` repeated `samples` times."""
        return self.map(lambda part: part[:, None].expand(-1, samples, -1))


class ResidualBlock(nn.Module):
    """x + mlp(norm(x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, hidden), nn.Linear(hidden, width)
        with torch.no_grad():
            self.outward.weight.mul_(0.3)  # starts near the identity

    def forward(self, x: Tensor) -> Tensor:
        """`[..., W]` → `[..., W]`."""
        return x + self.outward(F.gelu(self.inward(self.norm(x)), approximate="tanh"))


class Predictor(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: PredictorConfig, state_size: int, proprio_size: int, action_size: int) -> None:
        super().__init__()
        self.config = config
        self._sizes, steps = [state_size, proprio_size], config.prediction_steps
        self.inward = nn.Linear(2 * state_size + proprio_size + steps * action_size, config.width)
        self.blocks = nn.ModuleList(ResidualBlock(config.width, config.hidden_width) for _ in range(config.depth))
        self.change = nn.Linear(config.width, steps * sum(self._sizes))
        with torch.no_grad():
            self.change.weight.mul_(0.1)  # starts near "nothing changes", since long rollouts can be learned from there

    def advance(self, belief: Belief, actions: Tensor) -> Belief:
        """The n beliefs `[..., n, ·]` that follow under `actions [..., n, A]`."""
        x = self.inward(torch.cat([belief.state, belief.motion, belief.proprio, actions.flatten(-2)], dim=-1))
        for block in self.blocks:
            x = block(x)
        change = self.change(x).unflatten(-1, (self.config.prediction_steps, -1)).float()
        state_change, proprio_change = change.split(self._sizes, dim=-1)
        states = belief.state[..., None, :] + state_change
        motions = torch.diff(states, dim=-2, prepend=belief.state[..., None, :])
        return Belief(states, motions, belief.proprio[..., None, :] + proprio_change)

    def rollout(self, belief: Belief, actions: Tensor) -> Belief:
        """Beliefs `[..., H, ·]` after each of `actions [..., H, A]`, open loop. H need not be a multiple of n."""
        horizon, steps = actions.shape[-2], self.config.prediction_steps
        # The padding of the actions lies beyond the horizon, and the beliefs predicted from it are cut off again.
        padded = F.pad(actions, (0, 0, 0, -horizon % steps))
        ahead = []
        for chunk in padded.split(steps, dim=-2):
            ahead.append(self.advance(belief, chunk))
            belief = ahead[-1].map(lambda part: part[..., -1, :])
        return Belief.cat(ahead, dim=-2).map(lambda part: part[..., :horizon, :])
