"""Planning in a few lines: observe, imagine, measure distances, plan.

    model = load_model("push", torch.device("cpu"))
    planner = Planner(model, {"horizon": 8})
    latent = planner.observe(pixels, proprio)
    futures = planner.imagine(latent, actions)                # actions [S, H, A], in physical units
    distances = planner.distance(futures, "goal.png")         # [S, H]
    plan = planner.plan(latent, "goal.png")                   # plan.actions [H, A]

For control in a loop, see `planning.robot.RobotController`. It observes and replans at every step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.goals import read_one
from planning.inputs import first_command, read_images, read_numbers
from planning.objectives import LatentGoalCost
from planning.registry import make_strategy
from planning.settings import read_settings
from planning.types import Model
from worldmodel.core.errors import UserError
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation

# A goal as users give it: a picture as a file or an array, one for each camera, or a `Goal`.
GoalLike = str | Path | NDArray[np.uint8] | Mapping[str, Any] | Goal


@dataclasses.dataclass(frozen=True)
class PlannedActions:
    """What a search found.

    Attributes:
        actions: float32 `[H, A]`, within all limits.
        cost: that the model predicts for them; infinite where no finite cost was found.
        trace: `[I]`, the lowest cost in every iteration of the search.
    """

    actions: NDArray[np.float32]
    cost: float
    trace: NDArray[np.float32]


class Planner:
    """A world model and a way to plan with it, for one robot.

    Args:
        model: any world model, as `worldmodel.models.registry.load_model` gives it.
        options: of the planner, as of `RobotController`: `{"horizon": 8, "options.samples": 64}`.
        device: of the model.
        seed: of the planner's noise.

    Raises:
        UserError: for options that cannot be used.
    """

    def __init__(
        self,
        model: Model,
        options: Mapping[str, Any] | Sequence[str] = (),
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        self.model, self.spec, self._device = model, model.spec, torch.device(device)
        self._strategy = make_strategy(read_settings(options), seed)
        self.limits = ActionLimits.of(self.spec.action, self.spec.control_step_s, self._device)

    @torch.no_grad()
    def observe(self, images: Any, proprio: ArrayLike, previous: Any = None, action: ArrayLike | None = None) -> Any:
        """What is known after looking: a latent, opaque but for the model.

        Args:
            images: uint8 `[H, W, 3]` of the only camera, or such a picture for each camera by its name.
            proprio: `[P]`.
            previous: what was known one control step ago; None where an episode begins.
            action: `[A]`, what was done in between.

        Raises:
            UserError: for what does not fit the model, naming what was received and what is expected.
        """
        if (previous is None) != (action is None):
            raise UserError("previous and action belong together: expected both, or neither at the start of an episode")
        pictures = {name: image[None] for name, image in read_images(images, self.spec).items()}
        felt = read_numbers(proprio, (self.spec.proprio_size,), "proprio")[None]
        done = None if action is None else self._tensor(action, (self.spec.action.size,), "action")[None]
        return self.model.observe(previous, Observation(pictures, felt), done)

    @torch.no_grad()
    def imagine(self, latent: Any, actions: ArrayLike) -> Any:
        """The futures `[1, S, H, ...]` after `actions [S, H, A]` (physical units) from `latent`. Raises UserError."""
        wanted = np.shape(actions)
        if len(wanted) != 3 or 0 in wanted:
            raise UserError(f"actions have shape {list(wanted)}: expected [S, H, {self.spec.action.size}]")
        values = self._tensor(actions, (*wanted[:2], self.spec.action.size), "actions")
        return self.model.imagine(latent, values[None])

    @torch.no_grad()
    def distance(self, latents: Any, goal: GoalLike) -> NDArray[np.float32]:
        """How far futures are from `goal`, `[S, H]`; or how far what is known now is, `[]`. Raises UserError."""
        distance = self.model.distance(latents, self.model.goal(read_one(goal, self.spec)))
        return distance[0].cpu().numpy()

    def plan(self, latent: Any, goal: GoalLike, command: ArrayLike | None = None) -> PlannedActions:
        """What to do from `latent` toward `goal`.

        Args:
            latent: what is known.
            goal: a picture as a file or an array, one for each camera, or a `Goal` that the model reads.
            command: `[A]`, the one in force; needed where actions hold.

        Raises:
            UserError: for a goal that cannot be used, and where nobody knows what is held.
        """
        if command is None:
            nothing_seen = Observation({}, np.full((1, self.spec.proprio_size), np.nan, np.float32))
            (known,) = first_command(None, nothing_seen, self.spec.action, [True])
            assert known is not None
            if np.isnan(known).any():
                name = self.spec.action.names[int(np.isnan(known).argmax())]
                raise UserError(f"action {name} holds its last command: give it, command=[...] ({len(known)} numbers)")
            command = known
        last = self._tensor(command, (self.spec.action.size,), "command")[None]
        with torch.no_grad():
            towards = self.model.goal(read_one(goal, self.spec))
            cost = LatentGoalCost(self.model, [latent], [towards], self._strategy.objective)
            plan = self._strategy.plan(cost, self.limits, self.limits.clip(last), 0, None)
        return PlannedActions(plan.actions[0].cpu().numpy(), float(plan.cost[0]), plan.trace[0].cpu().numpy())

    def _tensor(self, values: ArrayLike, shape: tuple[int, ...], what: str) -> Tensor:
        return torch.as_tensor(read_numbers(values, shape, what), device=self._device)
