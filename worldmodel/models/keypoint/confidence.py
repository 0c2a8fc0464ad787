"""How far what comes may be from what was imagined, calibrated on rollouts of held-out episodes.

    e_h = exp(w_h · [1, log v_h, log u_h])          P(error_h <= x) = F_h(x / e_h)

`v_h` is the disagreement of the predictor's heads after h control steps (bootstrap ensembles, arXiv 1703.03400 and
1805.12114), in the unit of the distance. `u_h` is how unlike the training the predictor's inputs were on the way (a
Gaussian density of its features, arXiv 1807.03888). Both tell where errors are larger, not how large they are. The
weights are fitted to the errors of one part of the held-out rollouts. The quantiles of the ratios `error / e` come from
another part, so that they hold for any further rollout of the same kind (split conformal prediction, arXiv 2107.07511).

Shapes: `B` rollouts, `H` control steps ahead, `Q` levels.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

# So many levels from 0 to 1: one for each percent, and both ends.
LEVELS: Final = 101
_LEAST: Final = 1e-6  # disagreement and errors of exactly zero have no logarithm
# Ridge of the regression: disagreement and strangeness hardly vary where nothing happens.
_RIDGE: Final = 1e-3


class Confidence(nn.Module):
    """See the module's docstring. Until `fit`, it expects errors of 1."""

    weights: Tensor
    ratios: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(steps, 3))
        self.register_buffer("ratios", torch.ones(steps, LEVELS).cumsum(1) / LEVELS)

    def fit(self, errors: Tensor, disagreement: Tensor, strangeness: Tensor) -> None:
        """Learn from errors `[B, H]` of rollouts; one half of them for the weights, the other for the quantiles."""
        inputs, half = _inputs(disagreement, strangeness).double(), len(errors) // 2
        logs = errors.clamp_min(_LEAST).double().log()
        for step in range(errors.shape[1]):
            x, y = inputs[:half, step], logs[:half, step]
            ridge = _RIDGE * half * torch.diag(torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
            self.weights[step] = torch.linalg.solve(x.T @ x + ridge, x.T @ y).float()
        ratio = errors / self.expected(disagreement, strangeness)
        rows = ratio[half:].sort(0).values
        # Conformal: of n rollouts, the level q is the ceil((n + 1) q)-th smallest ratio.
        level = torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1)
        index = ((len(rows) + 1) * level).ceil().long().sub(1).clamp(0, len(rows) - 1)
        self.ratios.copy_(rows[index].T)

    def expected(self, disagreement: Tensor, strangeness: Tensor) -> Tensor:
        """The error that is expected `[..., H]`, in the unit of the distance, up to a factor for each step."""
        inputs = _inputs(disagreement, strangeness)
        return (inputs * _for_steps(self.weights, inputs.shape[-2])).sum(-1).exp()

    def bound(self, disagreement: Tensor, strangeness: Tensor, level: float) -> Tensor:
        """What the error does not exceed with the probability `level`, `[..., H]`."""
        expected = self.expected(disagreement, strangeness)
        return expected * _for_steps(self.ratios, expected.shape[-1])[:, round(level * (LEVELS - 1))]

    def probability(self, disagreement: Tensor, strangeness: Tensor, error: float) -> Tensor:
        """The probability that the error is at most `error`, `[..., H]`."""
        ratio = error / self.expected(disagreement, strangeness)
        levels = _for_steps(self.ratios, ratio.shape[-1])
        by_step = ratio.movedim(-1, 0).reshape(len(levels), -1).contiguous()
        found = torch.searchsorted(levels.contiguous(), by_step, right=True)
        found = found.reshape(ratio.movedim(-1, 0).shape).movedim(0, -1)
        return (found.float() - 1).clamp_min(0) / (LEVELS - 1)


def _inputs(disagreement: Tensor, strangeness: Tensor) -> Tensor:
    """`[..., H, 3]`."""
    logs = [part.float().clamp_min(_LEAST).log() for part in (disagreement, strangeness)]
    return torch.stack([torch.ones_like(logs[0]), *logs], dim=-1)


def _for_steps(table: Tensor, steps: int) -> Tensor:
    """Rows of a table for `steps` control steps; beyond its end, the last one holds."""
    return table[torch.arange(steps).clamp_max(len(table) - 1)]
