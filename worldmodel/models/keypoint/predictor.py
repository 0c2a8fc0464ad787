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

import copy
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
        heads: output layers, whose mean is the prediction. Each is trained on other episodes (bootstrap), so that they
            agree only where the recording leaves no choice. With one, the model knows nothing of its doubts.
        calibrated_steps: control steps ahead for which confidence is calibrated.
    """

    width: int = 256
    hidden_width: int = 512
    depth: int = 3
    prediction_steps: int = 4
    heads: int = 4
    calibrated_steps: int = 12

    def __post_init__(self) -> None:
        sizes = {name: size for name, size in dataclasses.asdict(self).items() if name != "calibrated_steps"}
        if min(sizes.values()) < 1 or self.calibrated_steps < 0:
            raise ValueError(f"every size must be at least 1, got {self}")


@dataclasses.dataclass(frozen=True)
class Belief(TensorRecord):
    """The latent state at one or many control steps.

    Attributes:
        state: keypoints and appearance embeddings `[..., Z]`.
        motion: the state's last change `[..., Z]`.
        proprio: proprioception `[..., P]`.
        tokens: compressed tokens of all cameras `[..., N, C]` of an observation or a goal. None in imagined states.
        variance: variance of the state among the heads `[..., Z]`, summed over the evaluations of a rollout. None
            unless it was asked for.
        strangeness: how much the inputs of the evaluations so far differ from the training data `[...]`. Its mean over
            the training data is 1. None unless it was asked for.
        cameras: how the cameras of an observation or a goal differ from those of the recording `[..., cameras, 8]`
            (`keypoint.camera_alignment`). None in imagined states.
    """

    state: Tensor
    motion: Tensor
    proprio: Tensor
    tokens: Tensor | None = None
    variance: Tensor | None = None
    strangeness: Tensor | None = None
    cameras: Tensor | None = None

    def imagined(self) -> Belief:
        """The same belief without tokens, from which a rollout starts."""
        return Belief(self.state, self.motion, self.proprio)

    def step(self, index: int | slice) -> Belief:
        """One control step `[..., ·]` of beliefs `[..., H, ·]`, or several of them."""
        which = (..., index, slice(None))
        known = self.strangeness
        return Belief(
            self.state[which],
            self.motion[which],
            self.proprio[which],
            variance=None if self.variance is None else self.variance[which],
            strangeness=None if known is None else known[..., index],
        )

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

    feature_mean: Tensor
    feature_whitening: Tensor

    def __init__(self, config: PredictorConfig, state_size: int, proprio_size: int, action_size: int) -> None:
        super().__init__()
        self.config = config
        self._sizes, steps = [state_size, proprio_size], config.prediction_steps
        self.inward = nn.Linear(2 * state_size + proprio_size + steps * action_size, config.width)
        self.blocks = nn.ModuleList(ResidualBlock(config.width, config.hidden_width) for _ in range(config.depth))
        self.change = nn.Linear(config.width, config.heads * steps * sum(self._sizes))
        with torch.no_grad():
            self.change.weight.mul_(0.1)  # starts near "nothing changes", since long rollouts can be learned from there
        if config.heads > 1:  # checkpoints of models with one head have no such buffers
            self.register_buffer("feature_mean", torch.zeros(config.width))
            self.register_buffer("feature_whitening", torch.eye(config.width))

    @torch.no_grad()
    def cast(self, dtype: torch.dtype | None = None) -> Predictor:
        """A copy for rollouts, with one head, the mean of all, and with matrices in the `dtype` of autocast, if any.

        Autocast would otherwise cast every matrix, and this class average the heads, in every evaluation. The results
        are the same to the last bit.
        """
        made = copy.deepcopy(self).eval().requires_grad_(False)
        weight, bias = self._mean_head()
        made.change = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
        made.change.weight.copy_(weight)
        made.change.bias.copy_(bias)
        made.config = dataclasses.replace(self.config, heads=1)
        for module in made.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype=dtype).requires_grad_(False)
        return made

    def features(self, belief: Belief, actions: Tensor) -> Tensor:
        """The input of the heads `[..., W]`, for beliefs and `actions [..., n, A]`."""
        x = self.inward(torch.cat([belief.state, belief.motion, belief.proprio, actions.flatten(-2)], dim=-1))
        for block in self.blocks:
            x = block(x)
        return x

    def advance(self, belief: Belief, actions: Tensor) -> Belief:
        """The n beliefs `[..., n, ·]` that follow under `actions [..., n, A]`."""
        return self._moved(belief, self._mean_change(self.features(belief, actions)))

    def advance_heads(self, belief: Belief, actions: Tensor) -> Belief:
        """The same by every head on its own: `[..., K, n, ·]`."""
        shape = (self.config.heads, self.config.prediction_steps, -1)
        changes = self.change(self.features(belief, actions)).unflatten(-1, shape).float()
        return self._moved(belief.imagined().map(lambda part: part[..., None, :]), changes)

    def advance_doubting(self, belief: Belief, actions: Tensor) -> Belief:
        """As `advance`, with `variance` and `strangeness`."""
        features = self.features(belief, actions)
        shape = (self.config.heads, self.config.prediction_steps, -1)
        changes = self.change(features).unflatten(-1, shape).float()
        ahead = self._moved(belief, changes.mean(-3))
        variance = changes[..., : self._sizes[0]].var(-3)
        whitened = (features.float() - self.feature_mean) @ self.feature_whitening
        strangeness = whitened.pow(2).mean(-1)[..., None].expand(variance.shape[:-1])
        if belief.variance is not None and belief.strangeness is not None:
            variance = variance + belief.variance[..., None, :]
            strangeness = torch.maximum(strangeness, belief.strangeness[..., None])
        return dataclasses.replace(ahead, variance=variance, strangeness=strangeness)

    def rollout(self, belief: Belief, actions: Tensor, doubting: bool = False) -> Belief:
        """Beliefs `[..., H, ·]` after each of `actions [..., H, A]`, open loop. H need not be a multiple of n.

        With `doubting`, they have `variance` and `strangeness`.
        """
        horizon, steps = actions.shape[-2], self.config.prediction_steps
        advance = self.advance_doubting if doubting else self.advance
        # The padding of the actions lies beyond the horizon, and the beliefs predicted from it are cut off again.
        padded = F.pad(actions, (0, 0, 0, -horizon % steps))
        ahead = []
        for chunk in padded.split(steps, dim=-2):
            ahead.append(advance(belief, chunk))
            belief = ahead[-1].step(-1)
        whole = Belief.cat(ahead, dim=actions.ndim - 2)
        return whole.step(slice(horizon)) if padded.shape[-2] > horizon else whole

    def rollout_heads(self, belief: Belief, actions: Tensor) -> Belief:
        """What every head says `[..., K, H, ·]` along the rollout of their mean, to be trained."""
        horizon, steps = actions.shape[-2], self.config.prediction_steps
        ahead = []
        for chunk in F.pad(actions, (0, 0, 0, -horizon % steps)).split(steps, dim=-2):
            ahead.append(self.advance_heads(belief, chunk))
            belief = ahead[-1].step(-1).map(lambda part: part.mean(-2))
        return Belief.cat(ahead, dim=actions.ndim - 1).step(slice(horizon))

    def _mean_change(self, features: Tensor) -> Tensor:
        """`[..., n, Z + P]`: heads are linear, so their mean is one layer with their mean weights."""
        return F.linear(features, *self._mean_head()).unflatten(-1, (self.config.prediction_steps, -1)).float()

    def _mean_head(self) -> tuple[Tensor, Tensor]:
        weight, bias, heads = self.change.weight, self.change.bias, self.config.heads
        if heads > 1:
            weight, bias = weight.unflatten(0, (heads, -1)).mean(0), bias.unflatten(0, (heads, -1)).mean(0)
        return weight, bias

    def _moved(self, belief: Belief, change: Tensor) -> Belief:
        """The beliefs `[..., n, ·]` after the changes `[..., n, Z + P]` since `belief [..., ·]`."""
        state_change, proprio_change = change.split(self._sizes, dim=-1)
        states = belief.state[..., None, :] + state_change
        motions = torch.diff(states, dim=-2, prepend=belief.state[..., None, :].expand_as(states[..., :1, :]))
        return Belief(states, motions, belief.proprio[..., None, :] + proprio_change)
