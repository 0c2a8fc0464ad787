"""Plans against reality: what plans promise, and what the simulator makes of them.

Rollouts of recorded actions say how good a model is where the recording is. A search looks for actions whose imagined
future is good, also where it is good only because the model is wrong. So the planner's own plans are made in states of
its episodes, carried out in the simulator, and compared with what was imagined. Distances are the model's, and
`planning.evaluation.promises` has the task's units.

Shapes: `N` simulator state, `H` control steps of a plan, `A` action, `D` numbers of a latent's decodable part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.environment import Environment, Floats
from planning.evaluation.promises import Known, Promise, in_units
from planning.inputs import first_command
from planning.objectives import LatentGoalCost, imagining_with_confidence
from planning.strategy import Strategy
from planning.types import Decodable, Model
from worldmodel.core.goal import ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.core.progress import Counting, uncounted

_TOGETHER = 32  # observations that are encoded at once


@dataclasses.dataclass(frozen=True)
class CheckedPlan:
    """One plan, as it was imagined and as it came.

    Attributes:
        promised: how much nearer to the goal its end was imagined to be.
        came: how much nearer it was.
        motion_promised: distance from the present to the imagined end.
        motion_came: distance from the present to the real end.
        error: distance from the imagined to the real end.
        bound: what the model expects this not to exceed in nine of ten cases. None from a model without confidence.
        codes: the decodable parts `[D]` of the present and the imagined end. None from a model without them.
        states: the present and the real end `[N]`.
    """

    promised: float
    came: float
    motion_promised: float
    motion_came: float
    error: float
    bound: float | None
    codes: tuple[Tensor, Tensor] | None = None
    states: tuple[Floats, Floats] = (np.empty(0), np.empty(0))


@dataclasses.dataclass(frozen=True)
class Reality:
    """Plans against reality, over many plans.

    Attributes:
        plans: number of plans that were checked.
        promised: mean of how much nearer the goal plans promised to come.
        came: mean of how much nearer they came.
        error: median distance from the imagined to the real end.
        motion_share: share of the promised motion that happened, over all plans.
        kept: share of the plans with a promise of motion above the model's `reached_distance` of which at least half
            happened. NaN without such plans.
        covered: share of plans whose error is within the model's 90 % bound. None from a model without confidence.
        promises: the same in the task's units, for each metric that can be read out of latents.
    """

    plans: int
    promised: float
    came: float
    error: float
    motion_share: float
    kept: float
    covered: float | None
    promises: tuple[Promise, ...] = ()

    @classmethod
    def of(cls, checked: Sequence[CheckedPlan], reached_distance: float, promises: Sequence[Promise] = ()) -> Reality:
        moving = [plan for plan in checked if plan.motion_promised > reached_distance]
        kept = [plan.motion_came >= plan.motion_promised / 2 for plan in moving]
        bounds = [plan.error <= plan.bound for plan in checked if plan.bound is not None]
        total = sum(plan.motion_promised for plan in checked)
        return cls(
            len(checked),
            promised=float(np.mean([plan.promised for plan in checked])),
            came=float(np.mean([plan.came for plan in checked])),
            error=float(np.median([plan.error for plan in checked])),
            motion_share=sum(plan.motion_came for plan in checked) / total if total else float("nan"),
            kept=float(np.mean(kept)) if kept else float("nan"),
            covered=float(np.mean(bounds)) if bounds else None,
            promises=tuple(promises),
        )

    def __str__(self) -> str:
        covered = "" if self.covered is None else f", {self.covered:.0%} of errors are within the model's 90 % bound"
        return (
            f"plans against reality ({self.plans} plans, in latent distance): {self.promised:.2f} nearer was promised, "
            f"{self.came:.2f} came; {self.motion_share:.0%} of the promised motion happened, and at least half of it "
            f"in {self.kept:.0%} of the plans that promise some; median error {self.error:.2f}{covered}"
            + "".join(f"\n{promise}" for promise in self.promises)
        )


class RealityCheck:
    """Makes plans and carries them out in a simulator.

    Args:
        env: the simulator. Its state changes.
        model: the model in which plans are made.
        strategy: how they are made.
        device: device of the model.
        start: `[A]`, the last command, for actions that rest at `hold` without a reading.
    """

    def __init__(
        self,
        env: Environment,
        model: Model,
        strategy: Strategy,
        device: torch.device,
        start: NDArray[np.float32] | None = None,
    ) -> None:
        self._env, self._model, self._strategy, self._device, self._start = env, model, strategy, device, start
        self._limits = ActionLimits.of(model.spec.action, model.spec.control_step_s, device)

    def measure(
        self,
        visited: Sequence[Floats],
        goals: Sequence[Floats],
        known: Known | None = None,
        counting: Counting = uncounted,
    ) -> Reality | None:
        """Check one plan from each of the `visited [N]` states toward its goal state `[N]`. None without any plan.

        Args:
            visited: the states, `[N]` each.
            goals: the goal of each.
            known: states from which a network learns to read latents in the task's units. Nothing is read without any.
            counting: shows progress.
        """
        made = []
        with counting("check plans") as progress:
            for number, (state, goal) in enumerate(zip(visited, goals, strict=True)):
                plan = self.check(state, goal)
                made += [plan] if plan is not None else []
                progress(number + 1, len(visited))
        if not made:
            return None
        promises: Sequence[Promise] = ()
        if known is not None and made[0].codes is not None:
            with counting("encode states") as progress:
                codes = self._codes(known.states, progress)
            promises = in_units(self._env, made, codes, known)
        return Reality.of(made, self._model.reached_distance, promises)

    @torch.no_grad()
    def _codes(self, states: Sequence[Floats], progress: Callable[[int, int], None]) -> Tensor:
        """Codes float32 `[n, D]` of the first observations in `states`, `[N]` each."""
        assert isinstance(self._model, Decodable)
        codes = []
        for start in range(0, len(states), _TOGETHER):
            some = states[start : start + _TOGETHER]
            seen = Observation.stack([Observation.of(self._env.reset(options={"state": state})[0]) for state in some])
            codes.append(self._model.decodable(self._model.observe(None, seen, None)).float().cpu())
            progress(start + len(some), len(states))
        return torch.cat(codes)

    @torch.no_grad()
    def check(self, state: Floats, goal: Floats) -> CheckedPlan | None:
        """A plan from `state [N]` toward `goal [N]`. None without a plan, or if its simulation diverges."""
        env, model = self._env, self._model
        observation, _ = env.reset(options={"state": state})
        seen = Observation.stack([Observation.of(observation)])
        (command,) = first_command(None, seen, model.spec.action, [True], self._start)
        last = self._limits.clip(torch.as_tensor(command, device=self._device)[None])
        latent = model.observe(None, seen, None)
        present, wanted = (model.goal(ImageGoal(env.goal_images(one))) for one in (state, goal))
        cost = LatentGoalCost(model, [latent], [wanted], self._strategy.objective)
        propose = self._strategy.propose([latent], [wanted], self._limits)
        plan = self._strategy.plan(cost, self._limits, last, 0, None, propose=propose)
        end = env.simulate(state, plan.actions.cpu().double().numpy())[0, -1]
        if not bool(plan.cost.isfinite()) or not np.isfinite(end).all():
            return None
        bound, ahead = _imagined(model, latent, plan.actions[:, None])
        real = model.goal(ImageGoal(env.goal_images(end)))
        codes = None
        if isinstance(model, Decodable):
            now, then = (model.decodable(each).float().cpu() for each in (latent, ahead))
            codes = now.flatten(0, -2)[-1], then.flatten(0, -2)[-1]

        def apart(latents: Any, others: Any) -> float:
            return float(model.distance(latents, others).flatten()[-1])

        return CheckedPlan(
            promised=apart(present, wanted) - apart(ahead, wanted),
            came=apart(present, wanted) - apart(real, wanted),
            motion_promised=apart(ahead, present),
            motion_came=apart(real, present),
            error=apart(ahead, real),
            bound=bound,
            codes=codes,
            states=(state, end),
        )


def states_on_the_way(paths: Sequence[Any], count: int, seed: int) -> tuple[list[Floats], NDArray[np.int64]]:
    """States `[N]` that episodes came through, drawn at random, and the episode of each.

    Args:
        paths: states `[T+1][N]` of every episode.
        count: number of states.
        seed: seed of the draw.
    """
    rng = np.random.default_rng(seed)
    episodes = np.arange(count) % len(paths)
    drawn = [paths[int(e)] for e in episodes]
    return [np.array(path[int(rng.integers(len(path)))]) for path in drawn], episodes


def _imagined(model: Any, latent: Any, actions: torch.Tensor) -> tuple[float | None, Any]:
    """The bound on the error at the end, where the model has one, and the imagined latents `[1, 1, H, ...]`."""
    with imagining_with_confidence(model) as can:
        ahead = model.imagine(latent, actions)
    if not can:
        return None, ahead
    return float(model.error_bound(ahead, 0.9).flatten()[-1]), ahead
