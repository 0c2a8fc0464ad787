"""What every optimiser promises, as an inheritable test.

A new optimiser's test derives from `OptimiserConformance`, and says how to make it:

    class TestMySearch(OptimiserConformance):
        def make(self) -> Optimiser: return MySearch(MySearchConfig(samples=256))
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.types import CostFn, Optimiser, Plan, Problem
from worldmodel.core.spec import ActionSpec
from worldmodel.core.tensor_record import TensorRecord

VELOCITY = ActionSpec((-1.0, -0.5), (1.0, 2.0), ("m/s", "m/s"))
# An arm: a joint angle that holds, with a limit on its speed; a wheel's speed; a gripper.
ARM = ActionSpec(
    (-100.0, -0.3, 0.0),
    (80.0, 0.3, 1.0),
    ("deg", "m/s", ""),
    rest=("hold", "zero", "hold"),
    kinds=("continuous", "continuous", "binary"),
    max_rate=(50.0, None, None),
)
STEP_S = 0.1
LIMITS, ARM_LIMITS = (ActionLimits.of(spec, STEP_S) for spec in (VELOCITY, ARM))


def quadratic(targets: Tensor) -> CostFn:
    """Cost of being away from `targets [B, A]` at every step."""
    return lambda actions: (actions - targets[:, None, None]).square().sum((-1, -2))


def ask(targets: Tensor, limits: ActionLimits = LIMITS, **changes: object) -> Problem:
    """Go to `targets [B, A]`, five steps ahead, from rest."""
    last = limits.rest(torch.zeros(len(targets), limits.size))
    return dataclasses.replace(Problem(quadratic(targets), limits, last, 5), **changes)


def solve(optimiser: Optimiser, problem: Problem, memory: TensorRecord | None = None, seed: int = 0) -> Plan:
    return optimiser.plan(problem, memory, torch.Generator().manual_seed(seed))


class OptimiserConformance:
    """Derive from it, and say how the optimiser is made."""

    tolerance = 0.05

    def make(self) -> Optimiser:
        """With options that find the optimum of a quadratic over five steps of two dimensions to `tolerance`."""
        raise NotImplementedError

    def make_careful(self) -> Optimiser:
        """With options under which it returns the best that it has seen."""
        return self.make()

    def test_it_finds_the_optimum_within_bounds(self) -> None:
        targets = torch.tensor([[0.3, 1.1], [-5.0, 9.0], [0.0, 0.0]])
        found = solve(self.make(), ask(targets))
        wanted = LIMITS.clip(targets)[:, None].expand(-1, 5, -1)
        torch.testing.assert_close(found.actions, wanted, atol=self.tolerance, rtol=0)
        torch.testing.assert_close(found.cost, quadratic(targets)(found.actions[:, None])[:, 0])

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    def test_plans_hold_all_limits_in_physical_units(self, share: float) -> None:
        """Also where the command in force lies outside of them, and where the cost says nothing sensible."""
        noise = torch.Generator().manual_seed(1)
        last = torch.tensor([[20.0, 0.0, 0.0], [-500.0, 9.0, 0.4], [80.0, -0.3, 1.0]])

        def cost(actions: Tensor) -> Tensor:
            values = quadratic(torch.tensor([[70.0, 5.0, 1.0]] * 3))(actions)
            return torch.where(torch.rand(values.shape, generator=noise) < share, torch.nan, values)

        problem = Problem(cost, ARM_LIMITS, last, 6)
        optimiser, memory = self.make(), None
        for step in range(4):
            plan = solve(optimiser, dataclasses.replace(problem, step=step, last=last), memory)
            assert_allowed(plan.actions, last, ARM, STEP_S)
            memory, last = plan.memory, plan.actions[:, 0]

    def test_what_is_judged_holds_all_limits(self) -> None:
        last = torch.tensor([[20.0, 0.0, 0.0]])

        def cost(actions: Tensor) -> Tensor:
            assert_allowed(actions.flatten(0, 1), last.expand(actions.shape[1], -1), ARM, STEP_S)
            return actions.sum((-1, -2))

        solve(self.make(), Problem(cost, ARM_LIMITS, last, 6))

    def test_no_finite_cost_means_to_rest(self) -> None:
        last = torch.tensor([[20.0, 0.2, 1.0], [-60.0, 0.1, 0.0]])
        for bad in (torch.nan, torch.inf, -torch.inf):
            problem = Problem(lambda actions, bad=bad: torch.full(actions.shape[:2], bad), ARM_LIMITS, last, 6)
            plan = solve(self.make(), problem)
            assert (plan.cost == torch.inf).all()
            torch.testing.assert_close(plan.actions, problem.rest(), atol=1e-4, rtol=0)

    def test_nan_is_worst(self) -> None:
        """The better half of the space is NaN: the plan must end in the other half."""

        def cost(actions: Tensor) -> Tensor:
            values = quadratic(torch.tensor([[1.0, 0.0]]))(actions)
            return torch.where(actions[..., 0].amax(-1) > 0, torch.nan, values)

        plan = solve(self.make_careful(), ask(torch.zeros(1, 2), cost=cost))
        assert plan.cost.isfinite().all() and (plan.actions[..., 0] <= 0).all()

    def test_the_same_generator_gives_the_same_plan_and_another_one_another(self) -> None:
        bowl = quadratic(torch.tensor([[0.3, 1.1]]))
        # With several valleys, chance decides which one is found, also by a planner that descends.
        problem = ask(torch.zeros(1, 2), cost=lambda actions: bowl(actions) + (20 * actions).sin().sum((-1, -2)))
        first, second, third = (solve(self.make(), problem, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first.actions, second.actions)
        assert not torch.equal(first.actions, third.actions)

    def test_a_row_gets_the_same_plan_in_any_company(self) -> None:
        targets = torch.tensor([[9.0, -9.0], [0.3, 1.1], [torch.nan, 0.0]])
        optimiser = self.make()
        memory = solve(optimiser, ask(targets)).memory
        for known, step in ((None, 0), (memory, 1)):
            together = solve(optimiser, ask(targets, step=step), known)
            rows = slice(1, 2)
            alone = solve(optimiser, ask(targets[rows], step=step), None if known is None else known.rows(rows))
            torch.testing.assert_close(alone.actions[0], together.actions[1], atol=0, rtol=0)

    def test_a_warm_start_is_never_worse(self) -> None:
        """What is left of a plan, with rest at its end, is among the candidates."""
        targets = torch.tensor([[0.3, 1.1], [-0.7, 0.4]])
        optimiser, cost = self.make_careful(), quadratic(targets)
        first = solve(optimiser, ask(targets))
        rest = LIMITS.rest(first.actions[:, -1:])
        left = torch.cat([first.actions[:, 1:], rest], dim=1)
        again = solve(optimiser, ask(targets, step=1, last=first.actions[:, 0]), first.memory, seed=3)
        assert (again.cost <= cost(left[:, None])[:, 0] + 1e-6).all()

    def test_evaluations_are_as_many_as_it_says(self) -> None:
        judged: list[int] = []

        def cost(actions: Tensor) -> Tensor:
            judged.append(actions.shape[1])
            return actions.square().sum((-1, -2))

        optimiser = self.make()
        plan = solve(optimiser, ask(torch.zeros(2, 2), cost=cost))
        assert sum(judged) == optimiser.evaluations and max(judged) <= optimiser.samples
        assert plan.trace.shape[0] == 2 and plan.trace.isfinite().all()

    def test_a_deadline_gives_the_best_of_what_was_evaluated(self) -> None:
        """One that is over allows one iteration, and one that is far away changes nothing."""
        targets, costs = torch.tensor([[0.3, 1.1], [-0.2, 0.4]]), list[Tensor]()

        def cost(actions: Tensor) -> Tensor:
            costs.append(quadratic(targets)(actions).detach())
            return quadratic(targets)(actions)

        optimiser = self.make()
        hurried = solve(optimiser, ask(targets, cost=cost, deadline=0.0))
        torch.testing.assert_close(hurried.cost, torch.cat(costs, dim=1).amin(1))
        torch.testing.assert_close(quadratic(targets)(hurried.actions[:, None])[:, 0], hurried.cost)
        assert sum(each.shape[1] for each in costs) <= optimiser.evaluations
        free, unhurried = (solve(optimiser, ask(targets, deadline=until)) for until in (None, float("inf")))
        assert torch.equal(free.actions, unhurried.actions) and torch.equal(free.cost, unhurried.cost)

    def test_what_is_proposed_is_judged(self) -> None:
        wanted = torch.tensor([[0.123, 0.456]]).expand(5, -1)[None, None]
        judged: list[bool] = []

        def cost(actions: Tensor) -> Tensor:
            judged.append(bool((actions == wanted).flatten(2).all(-1).any()))
            return actions.square().sum((-1, -2))

        solve(self.make(), ask(torch.zeros(1, 2), cost=cost, propose=lambda most, generator: wanted))
        assert any(judged)

    def test_a_proposal_that_is_no_number_does_no_harm(self) -> None:
        """Even if the cost of such actions is finite."""
        proposed = torch.full((2, 3, 5, 2), 0.2)
        proposed[0], proposed[1, 1:] = torch.nan, torch.inf

        def cost(actions: Tensor) -> Tensor:
            assert actions.isfinite().all()
            return actions.square().sum((-1, -2))

        plan = solve(self.make(), ask(torch.zeros(2, 2), cost=cost, propose=lambda most, generator: proposed))
        assert plan.cost.isfinite().all() and plan.actions.isfinite().all()


def assert_allowed(actions: Tensor, last: Tensor, spec: ActionSpec, control_step_s: float) -> None:
    """Commands `[B, H, A]` after `last [B, A]`: within the bounds in double precision, and so on. Nothing is given."""
    low, high = torch.tensor(spec.low, dtype=torch.float64), torch.tensor(spec.high, dtype=torch.float64)
    commands = actions.double()
    assert commands.isfinite().all()
    assert (commands >= low).all() and (commands <= high).all()
    before = torch.minimum(torch.maximum(last.double(), low), high)
    change = torch.diff(commands, dim=1, prepend=before[:, None]).abs()
    for dimension, (kind, rate) in enumerate(zip(spec.kinds, spec.max_rate, strict=True)):
        if kind == "binary":
            values, ends = actions[..., dimension], [float(bound[dimension]) for bound in spec.bounds]
            assert ((values == ends[0]) | (values == ends[1])).all()
        if rate is not None:
            assert (change[..., dimension] <= rate * control_step_s).all()
