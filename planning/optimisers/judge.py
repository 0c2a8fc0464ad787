"""Costs of knots, and their gradients.

Shapes: `B` plans, `S` candidates of each, `H` control steps, `K` knots, `A` action dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from planning.actions.knots import from_knots
from planning.actions.safety import finite_or_worst
from planning.types import Problem
from worldmodel.core.errors import UserError


class Judge:
    """The cost of `problem` as a function of knots.

    Args:
        problem: what is to be solved.
        action_repeat: control steps that share one action.
    """

    def __init__(self, problem: Problem, action_repeat: int) -> None:
        self._problem, self._repeat = problem, action_repeat

    def held(self, knots: Tensor) -> Tensor:
        """Actions `[..., H, A]` of knots `[..., K, A]`, before limits on changes and binary dimensions are applied."""
        return from_knots(knots, self._repeat, self._problem.horizon, self._problem.step)

    def actions(self, knots: Tensor) -> Tensor:
        """Commands `[B, (S,) H, A]` of knots `[B, (S,) K, A]`, within all limits."""
        return self._problem.limits.project(self.held(knots), self._problem.last)

    def cost(self, knots: Tensor) -> Tensor:
        """Cost `[B, S]` of knots `[B, S, K, A]`. It is +inf where the problem's cost is not finite."""
        return finite_or_worst(self._problem.cost(self.actions(knots)))

    def gradient(self, knots: Tensor) -> tuple[Tensor, Tensor]:
        """Cost `[B, S]` of knots `[B, S, K, A]`, and its gradient `[B, S, K, A]`.

        The gradient flows through all limits. It is zero in binary dimensions, whose commands do not change with small
        changes of a knot, and in candidates whose cost is not finite.

        Raises:
            UserError: if the cost is not differentiable.
        """
        with torch.enable_grad():
            leaf = knots.detach().requires_grad_()
            cost = self.cost(leaf)
            if not cost.requires_grad:
                if cost.isinf().all():  # a broken model has no slope, and the caller rests
                    return cost, torch.zeros_like(knots)
                raise UserError(
                    "this planner follows the gradient of the cost, and this model gives none: expected a model whose "
                    "imagine and distance are differentiable, or a planner that only samples, for example planner=cem"
                )
            (slope,) = torch.autograd.grad(cost.sum(), leaf)
        usable = slope.isfinite() & cost.isfinite()[..., None, None]
        return cost.detach(), torch.where(usable, slope, 0.0)
