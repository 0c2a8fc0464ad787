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
from planning.loading import with_proposals
from planning.objectives import LatentGoalCost, require_confidence
from planning.registry import make_strategy
from planning.settings import read_settings
from planning.types import Model
from worldmodel.core.errors import UserError
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation

# A goal of a user is an image as a file or an array, one for each camera, or a `Goal`.
GoalLike = str | Path | NDArray[np.uint8] | Mapping[str, Any] | Goal


@dataclasses.dataclass(frozen=True)
class PlannedActions:
    """Result of a search.

    Attributes:
        actions: float32 `[H, A]`, within all limits.
        cost: the predicted cost of the actions. It is infinite if no finite cost was found.
        trace: `[I]`, the lowest cost in every iteration of the search.
    """

    actions: NDArray[np.float32]
    cost: float
    trace: NDArray[np.float32]


class Planner:
    """Plans with a world model, for one robot.

    Args:
        model: any world model, as `worldmodel.models.registry.load_model` gives it.
        options: options of the planner, as for `RobotController`: `{"horizon": 8, "options.samples": 64}`.
        device: device of the model.
        seed: seed of the planner's noise.

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
        self._strategy = with_proposals(make_strategy(read_settings(options, self.spec.env), seed), model)
        require_confidence(model, self._strategy.objective)
        self._strategy.warn()
        self.limits = ActionLimits.of(self.spec.action, self.spec.control_step_s, self._device)

    @torch.no_grad()
    def observe(self, images: Any, proprio: ArrayLike, previous: Any = None, action: ArrayLike | None = None) -> Any:
        """The latent state after an observation. Only the model reads its content.

        Args:
            images: uint8 `[H, W, 3]` of the only camera, or a mapping from cameras to such images.
            proprio: `[P]`.
            previous: the latent state one control step ago. It is None at the start of an episode.
            action: `[A]`, the action between the two observations.

        Raises:
            UserError: for an argument that does not fit the model. It names what was received and what is expected.
        """
        if (previous is None) != (action is None):
            raise UserError("previous and action belong together: expected both, or neither at the start of an episode")
        pictures = {name: image[None] for name, image in read_images(images, self.spec).items()}
        felt = read_numbers(proprio, (self.spec.proprio_size,), "proprio")[None]
        done = None if action is None else self._tensor(action, (self.spec.action.size,), "action")[None]
        return self.model.observe(previous, Observation(pictures, felt), done)

    @torch.no_grad()
    def imagine(self, latent: Any, actions: ArrayLike) -> Any:
        """Latent states `[1, S, H, ...]` after each of `actions [S, H, A]` (physical units). Raises UserError."""
        wanted = np.shape(actions)
        if len(wanted) != 3 or 0 in wanted:
            raise UserError(f"actions have shape {list(wanted)}: expected [S, H, {self.spec.action.size}]")
        values = self._tensor(actions, (*wanted[:2], self.spec.action.size), "actions")
        return self.model.imagine(latent, values[None])

    @torch.no_grad()
    def distance(self, latents: Any, goal: GoalLike) -> NDArray[np.float32]:
        """Distance to `goal`: `[S, H]` of imagined latents, or `[]` of an observed one. Raises UserError."""
        distance = self.model.distance(latents, self.model.goal(read_one(goal, self.spec)))
        return distance[0].cpu().numpy()

    def plan(self, latent: Any, goal: GoalLike, command: ArrayLike | None = None) -> PlannedActions:
        """Plan actions from `latent` toward `goal`.

        Args:
            latent: the current latent state.
            goal: an image as a file or an array, a mapping from cameras to images, or a `Goal` that the model reads.
            command: `[A]`, the last command. It is needed if an action rests at `hold`.

        Raises:
            UserError: for a goal that cannot be used, and if the last command is needed and not given.
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
            propose = self._strategy.propose([latent], [towards], self.limits)
            plan = self._strategy.plan(cost, self.limits, self.limits.clip(last), 0, None, propose=propose)
        return PlannedActions(plan.actions[0].cpu().numpy(), float(plan.cost[0]), plan.trace[0].cpu().numpy())

    def _tensor(self, values: ArrayLike, shape: tuple[int, ...], what: str) -> Tensor:
        return torch.as_tensor(read_numbers(values, shape, what), device=self._device)
