"""The tasks of the arm: what counts as success, and which goals are worth an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import mujoco
import numpy as np

from envs.arm.config import AIR, CLOSE, OPEN, PLACE, ArmConfig
from envs.arm.exploration import ArmExplorer, default_shares
from envs.arm.scene import DRAWER, GRIP, HANDLE
from envs.arm.world import ArmWorld
from envs.task import Explorer, Metric, Task, read_shares
from envs.view import Marker, MarkerPaths
from envs.world import Floats

_LIFTED: Final = 0.03  # height above its place on the table from which a cube is in the air [m]
_LYING: Final = 0.005  # and up to which it lies on the table [m]
_HELD: Final = 0.03  # largest distance of a held cube from the grip point [m]
_NEAR: Final = 0.1  # unit of the oracle's distance from hand to thing [m]
_AT_REST: Final = 0.02  # speed below which a cube is at rest [m/s]


class ArmTask(Task):
    """The task to bring every cube and the drawer to their places in the goal. The hand's place does not matter.

    A cube's error is the distance of its middle from the goal in 3-D. Its orientation does not count. The drawer's
    error is that of its opening.

    Args:
        world: the simulation.
        config: tolerances and kinds of goals.
    """

    def __init__(self, world: ArmWorld, config: ArmConfig) -> None:
        self._world, self._config, self._layout = world, config, world.layout
        self.goal_kinds = config.goals
        self.exploration = default_shares(config)
        metrics = [Metric(name, "cm", 100 * config.cube_tolerance_m) for name in self._layout.cubes]
        if config.drawers:
            metrics.append(Metric(DRAWER, "cm", 100 * config.drawer_tolerance_m))
        self.metrics = tuple(metrics)
        shown = [
            Marker(world.model, name) for name in (*self._layout.cubes, *([DRAWER] if config.drawers else []), GRIP)
        ]
        self._grip, self._kinematics = Marker(world.model, GRIP), mujoco.MjData(world.model)
        self._handle = Marker(world.model, HANDLE) if config.drawers else self._grip
        self._paths = MarkerPaths(world.model, world.views[0], shown)

    def errors(self, states: Floats, goal: Floats) -> Mapping[str, Floats]:
        """Distance of each cube from its goal [cm], and error of the drawer's opening [cm]."""
        states, goal, layout = np.asarray(states, np.float64), np.asarray(goal, np.float64), self._layout
        errors: dict[str, Floats] = {
            name: 100 * np.linalg.norm(layout.cube(states, number) - layout.cube(goal, number), axis=-1)
            for number, name in enumerate(layout.cubes)
        }
        if layout.drawer is not None:
            errors[DRAWER] = 100 * np.abs(layout.opening(states) - layout.opening(goal))
        return errors

    def approach(self, states: Floats, goal: Floats) -> Floats:
        """Squared distance of the grip point to the thing that is furthest from its goal, in units of 10 cm.

        It is zero once everything is within half of its tolerance.
        """
        errors, layout = self.errors(states, goal), self._layout
        relative = np.stack([errors[metric.name] / metric.tolerance for metric in self.metrics], axis=-1)
        cost = np.zeros(relative.shape[:-1])
        for place in map(tuple, np.argwhere(relative.max(-1) > 0.5)):
            state, worst = states[place], int(relative[place].argmax())
            self._kinematics.qpos[:] = state[: self._world.model.nq]
            mujoco.mj_kinematics(self._world.model, self._kinematics)
            lies = worst < len(layout.cubes)
            thing = layout.cube(state, worst) if lies else self._handle.position(self._kinematics)
            cost[place] = np.sum((self._grip.position(self._kinematics) - thing) ** 2) / _NEAR**2
        return cost

    def is_interesting(self, start: Floats, goal: Floats) -> bool:
        """Whether the goal is of a kind that the task has, and the start is not a success."""
        return self.goal_kind(start, goal) != ""

    def goal_kind(self, start: Floats, goal: Floats) -> str:
        """`place`, `air`, `open` or `close`, if the task has goals of this kind. Otherwise empty text.

        The object that has moved is at rest in the goal, or it is held. What is falling could not be held there.
        """
        if self.is_success(start, goal):
            return ""
        kinds = [self._kind_of_cube(start, goal, number) for number in range(len(self._layout.cubes))]
        if self._layout.drawer is not None:
            change = float(self._layout.opening(goal) - self._layout.opening(start))
            if abs(change) >= self._config.drawer_min_change_m:
                kinds.append(OPEN if change > 0 else CLOSE)
        found = [kind for kind in kinds if kind in self._config.goals]
        return found[0] if found else ""

    def _kind_of_cube(self, start: Floats, goal: Floats, number: int) -> str:
        position = self._layout.cube(goal, number)
        if np.linalg.norm(position - self._layout.cube(start, number)) < self._config.cube_min_change_m:
            return ""
        with self._world.visit(goal):
            hand, height = self._world.hand(), position[2] - self._world.half_width(number)
        if height > _LIFTED:
            return AIR if np.linalg.norm(position - hand) < _HELD else ""
        at_rest = np.linalg.norm(self._layout.velocity(goal, number)) < _AT_REST
        return PLACE if abs(height) < _LYING and at_rest else ""

    def explorer(self, rng: np.random.Generator) -> Explorer:
        return ArmExplorer(self._world, rng, self.exploration)

    def explorer_with(self, rng: np.random.Generator, shares: Mapping[str, float]) -> Explorer:
        return ArmExplorer(self._world, rng, read_shares(shares, self.exploration))

    def path_points(self, states: Floats) -> Mapping[str, Floats]:
        return self._paths(np.asarray(states, np.float64))
