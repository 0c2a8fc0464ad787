"""A real robot, or anything else without a simulator of ours: observations in, actions out.

    controller = RobotController("runs/arm/model", goal="goal.jpg")
    while True:
        pixels, proprio = robot.observe()
        decision = controller.act(pixels, proprio)
        if decision.reached:
            break
        robot.act(decision.action)                       # within the bounds of the recording, always

Call `act` once per control step, `controller.spec.control_step_s` apart: the model was trained at that rate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from planning.controller import Observations
from planning.goal_image import read_goal
from planning.loading import Checkpoint, bounds_of, read_model
from planning.policies import make_controller
from planning.registry import make_planner
from worldmodel.cli.command import as_plain, composed
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.recorder import as_row
from worldmodel.data.store.layout import Layout, image_column


@dataclasses.dataclass(frozen=True)
class RobotDecision:
    """What to do at one control step.

    Attributes:
        action: float32 `[A]` in `spec.action.units`, finite and within the bounds of the recording.
        distance: latent distance of what is seen now to the goal, in half widths of the picture.
        reached: whether that is within `reached_distance`.
        replaced: whether no plan could be used; the action is then the allowed one nearest to zero.
        plan_ms: time from the observation to the action [ms].
    """

    action: NDArray[np.float32]
    distance: float
    reached: bool
    replaced: bool
    plan_ms: float


class RobotController:
    """Plans toward a goal picture in a world model, anew at every control step, for one robot. For a single thread.

    Args:
        checkpoint: a folder that `python -m worldmodel.train` has written, or a shipped checkpoint's name.
        goal: a picture of the goal: a PNG or JPEG, or uint8 `[H, W, 3]` of the model's size.
        options: of the planner, as on the command line, for example `["planner.horizon=8"]`.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `mps`.
        precision: of imagined futures, `bf16` or `fp32`.
        reached_distance: latent distance that counts as being there.
        seed: of the planner's noise.

    Attributes:
        spec: what the model was trained on: size of the pictures, bounds and units of the actions, control step [s].

    Raises:
        UserError: for a checkpoint, a picture or an option that cannot be used.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        goal: str | Path | NDArray[np.uint8],
        options: Sequence[str] = (),
        device: str = "auto",
        precision: str = "bf16",
        reached_distance: float = 0.2,
        seed: int = 0,
    ) -> None:
        place = pick_device(device)
        model = read_model(Checkpoint(str(checkpoint), str(checkpoint)), place, precision)
        self.spec: EnvironmentSpec = model.spec
        types = Layout(self.spec).row_types
        self._rows = {"pixels": types[image_column(self.spec.only_camera.name)], "proprio": types["proprio"]}
        planner = make_planner(_planner_options(options), model.history, seed)
        picture = self._goal(goal)
        self._controller = make_controller(model, planner, bounds_of(self.spec), picture[None], place)
        self._reached_distance = reached_distance

    def toward(self, goal: str | Path | NDArray[np.uint8]) -> None:
        """Begin anew, toward another goal or the same one. Raises UserError for a picture that cannot be used."""
        self._controller.reset(0, self._goal(goal))

    def act(self, pixels: NDArray[np.uint8], proprio: ArrayLike) -> RobotDecision:
        """The action to take now, and to hold for one control step.

        Args:
            pixels: uint8 `[H, W, 3]`, RGB, from the same camera as the recording and prepared in the same way.
            proprio: finite numbers `[P]`, as recorded.

        Raises:
            UserError: when one of them is something else. Nothing has happened then; the next call may be right.
        """
        seen = as_row("pixels", pixels, self._rows["pixels"])
        felt = as_row("proprio", proprio, self._rows["proprio"])
        decision = self._controller.act(Observations(seen[None], felt[None]))
        distance = float(decision.distance[0])
        reached = distance <= self._reached_distance
        return RobotDecision(decision.actions[0], distance, reached, bool(decision.replaced[0]), decision.plan_ms)

    def _goal(self, goal: str | Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
        if isinstance(goal, str | Path):
            return read_goal(goal, self.spec.only_camera.height).pixels
        return as_row("goal", goal, self._rows["pixels"])


def _planner_options(options: Sequence[str]) -> dict[str, Any]:
    """The configuration group `planner` with `options`. Raises UserError for others, which would have no effect."""
    if isinstance(options, str):
        raise UserError(f"options is the text '{options}': expected a list of texts")
    for option in options:
        if not isinstance(option, str) or not option.startswith(("planner=", "planner.")):
            raise UserError(f"option {option!r}: expected one of the planner's, for example 'planner.horizon=8'")
    planner: dict[str, Any] = as_plain(composed("run", list(options)))["planner"]
    return planner
