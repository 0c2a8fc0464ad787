"""Where a search begins: the rest of the last plan, proposals, and rest.

Shapes: `B` plans, `E` action sequences of each, `N` candidates, `H` control steps, `K` knots, `A` action dimensions.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from planning.actions.knots import shift, to_knots
from planning.types import Problem
from worldmodel.core.tensor_record import TensorRecord


@dataclasses.dataclass(frozen=True)
class WarmStart(TensorRecord):
    """The memory of an optimiser.

    Attributes:
        actions: `[B, H, A]`, the last plan before limits on changes and binary dimensions were applied. Applying them
            to the remaining actions gives the rest of the plan.
        step: `[B]`, the control step in which the plan was made.
    """

    actions: Tensor
    step: Tensor


def warm_start(actions: Tensor, problem: Problem) -> WarmStart:
    """The memory of a plan `actions [B, H, A]` for `problem`."""
    return WarmStart(actions, torch.full((len(actions),), problem.step, device=actions.device))


def first_mean(problem: Problem, memory: TensorRecord | None) -> Tensor:
    """The initial mean `[B, H, A]`. It is the rest of the last plan, or rest if there is none."""
    if memory is None:
        return problem.rest()
    assert isinstance(memory, WarmStart), "memory is given back to who made it"
    return remaining(memory.actions, memory.step, problem)


def remaining(actions: Tensor, step: Tensor, problem: Problem) -> Tensor:
    """What is left at `problem.step` of actions `[B, H, A]` that were planned at `step [B]`, within bounds."""
    made_at = step.tolist()
    if len(set(made_at)) == 1:
        left = shift(actions, problem.step - made_at[0], problem.limits)
    else:  # rows that are equally far into their episodes can have made their last plans at different times
        rows = zip(actions.split(1), made_at, strict=True)
        left = torch.cat([shift(row, problem.step - made, problem.limits) for row, made in rows])
    return problem.limits.clip(left)


def with_proposals(drawn: Tensor, problem: Problem, action_repeat: int, generator: torch.Generator) -> Tensor:
    """Candidates `[B, N, K, A]`, of which the last are replaced by what `problem.propose` proposes, if anything.

    A proposal with a number that is not finite replaces nothing.
    """
    if problem.propose is None:
        return drawn
    most = drawn.shape[1]
    proposed = to_knots(problem.propose(most, generator).to(drawn), action_repeat, problem.step)[:, :most]
    kept, replaced = drawn.split([most - proposed.shape[1], proposed.shape[1]], dim=1)
    usable = proposed.isfinite().flatten(2).all(-1)[:, :, None, None]
    return torch.cat([kept, torch.where(usable, proposed, replaced)], dim=1)
