"""Whether a model's distance sees the things or the robot.

python -m benchmarks.learning.robot_or_things env=push checkpoint=push n=300
python -m benchmarks.learning.robot_or_things env=arm_pick_place checkpoint=runs/arm_pick_place/model n=300

The simulator changes one part of a scene at a time: the robot is put somewhere else, or the thing is moved by a few
centimetres (3 cm for a block or a cube, 2 cm for the drawer), or both. For a goal that is about things, the first has
to be nearer than the second and the third. The table has the medians of the distance, and how often a scene with
another robot is nearer than one with another place of the thing, for the keypoints alone too. Intervals are Wilson's,
at 95 %. A distance that sees only the things has 100 %, and one that sees only the robot has 0 %.

Options: `n` scenes, and those of planning.evaluate that choose environment and checkpoint. Scenes come from seed 77.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Final

import mujoco
import numpy as np
import torch
from torch import Tensor

from envs.arm.world import ArmWorld
from envs.protocol import GoalEnv
from envs.push import ARENA_WIDTH, BLOCK_WIDTH, PUSHER_RADIUS, PushWorld
from envs.world import Floats
from planning.loading import choose_checkpoint, read_model
from planning.simulation import open_env
from worldmodel.cli.command import as_plain, composed, ending_in_one_line
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.core.statistics import wilson_interval
from worldmodel.models.keypoint.model import KeypointModel

SEED: Final = 77
_MOVED: Final = 0.03  # of a block or a cube [m]
_PULLED: Final = 0.02  # of a drawer [m]
_MOST_DRAWS: Final = 200

# From a state to one in which only the robot, or only the thing, is somewhere else. None if there was no room.
Change = Callable[[Floats, np.random.Generator], Floats | None]


@dataclasses.dataclass(frozen=True)
class Changes:
    """How a world's scenes are changed."""

    robot: Change
    thing: Change


def changes_of(env: GoalEnv) -> Changes:
    """Those of the environment's world. Raises UserError for one that is not known here."""
    world = env.world
    if isinstance(world, PushWorld):
        return Changes(_pusher_elsewhere, _block_moved)
    if isinstance(world, ArmWorld):
        return Changes(_tried(world, ArmWorld.pose_at_random), _tried(world, _thing_moved))
    raise UserError(f"env={env.name}: expected push or a task of the arm, whose robot and things can be moved apart")


def _pusher_elsewhere(state: Floats, rng: np.random.Generator) -> Floats | None:
    reach = ARENA_WIDTH / 2 - PUSHER_RADIUS
    return _first_apart(lambda: (state[:2], rng.uniform(-reach, reach, 2)), state)


def _block_moved(state: Floats, rng: np.random.Generator) -> Floats | None:
    reach = ARENA_WIDTH / 2 - BLOCK_WIDTH * np.sqrt(0.5)
    return _first_apart(lambda: (np.clip(state[:2] + _MOVED * _direction(rng), -reach, reach), state[3:5]), state)


def _first_apart(draw: Callable[[], tuple[Floats, Floats]], state: Floats) -> Floats | None:
    """`state` with the first drawn places of block and pusher that do not touch."""
    for _ in range(_MOST_DRAWS):
        block, pusher = draw()
        if np.linalg.norm(block - pusher) > BLOCK_WIDTH * np.sqrt(0.5) + PUSHER_RADIUS:
            changed = state.copy()
            changed[:2], changed[3:5] = block, pusher
            return changed
    return None


def _direction(rng: np.random.Generator) -> Floats:
    angle = rng.uniform(-np.pi, np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _tried(world: ArmWorld, change: Callable[[ArmWorld, np.random.Generator], None]) -> Change:
    """`change` of the world in a state, drawn until nothing overlaps."""

    def changed(state: Floats, rng: np.random.Generator) -> Floats | None:
        for _ in range(_MOST_DRAWS):
            world.set_state(state)
            change(world, rng)
            mujoco.mj_forward(world.model, world.data)
            if not (world.data.contact.dist < -0.002).any():
                return world.get_state()
        return None

    return changed


def _thing_moved(world: ArmWorld, rng: np.random.Generator) -> None:
    layout = world.layout
    if layout.cubes:
        start = layout.positions[0]
        world.data.qpos[start : start + 2] += _MOVED * _direction(rng)
    else:
        assert layout.drawer is not None
        world.data.qpos[layout.drawer] += rng.choice([-_PULLED, _PULLED])


def scenes(env: GoalEnv, count: int) -> list[tuple[Floats, Floats, Floats, Floats]]:
    """States as they are, with the robot elsewhere, with the thing moved, and with both, `count` times."""
    rng, changes, found = np.random.default_rng(SEED), changes_of(env), []
    while len(found) < count:
        env.reset(seed=int(rng.integers(2**31)))
        here = env.get_state()
        robot, thing = changes.robot(here, rng), changes.thing(here, rng)
        both = None if thing is None else changes.robot(thing, rng)
        if robot is not None and thing is not None and both is not None:
            found.append((here, robot, thing, both))
    return found


def observe(env: GoalEnv, states: Sequence[Floats]) -> Observation:
    """What cameras and proprioception show in `states [B][N]`."""
    seen = []
    for state in states:
        env.set_state(state)
        seen.append(env.observe())
    images = {name: np.stack([each["images"][name] for each in seen]) for name in seen[0]["images"]}
    return Observation(images, np.stack([each["proprio"] for each in seen]).astype(np.float32))


def report(name: str, robot: Tensor, thing: Tensor, both: Tensor) -> None:
    """One line: medians, and how often the robot elsewhere is nearer than the thing, or both, moved."""
    parts = []
    for what, other in (("the thing moved", thing), ("both moved", both)):
        nearer, n = int((robot < other).sum()), len(robot)
        low, high = wilson_interval(nearer, n)
        parts.append(f"nearer than {what} in {nearer / n:.0%} ({low:.0%} to {high:.0%})")
    medians = ", ".join(f"{what} {float(x.median()):.3f}" for what, x in (("robot", robot), ("thing", thing)))
    console.print(f"{name}: median {medians}; with the robot elsewhere {', '.join(parts)}", highlight=False)


def measure(count: int, overrides: Sequence[str]) -> None:
    """Print the lines. Raises UserError."""
    config = as_plain(composed("evaluate", list(overrides)))
    with contextlib.ExitStack() as opened, torch.no_grad():
        env, spec = open_env(config["env"])
        opened.callback(env.close)
        model = read_model(choose_checkpoint(config["checkpoint"], spec.env), torch.device("cpu"), "fp32", False, spec)
        columns = list(zip(*scenes(env, count), strict=True))
        here, *changed = (model.observe(None, observe(env, column), None) for column in columns)
        report(f"{count} scenes of {spec.env}, distance", *(model.distance(x, here) for x in changed))
        if isinstance(model, KeypointModel):
            keypoints = dataclasses.replace(model.config.distance, robot_weight=0.0, appearance_weight=0.0)
            model.config = dataclasses.replace(model.config, distance=keypoints)
            report("keypoints alone", *(model.distance(x, here) for x in changed))


def read(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """The number of scenes, and what else was typed. Raises UserError."""
    count, others = 300, []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name != "n":
            others.append(argument)
        elif value.isdecimal() and int(value):
            count = int(value)
        else:
            raise UserError(f"option {argument}: expected a number from 1 up")
    return count, others


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ending_in_one_line("nothing was written"):
        measure(*read(sys.argv[1:]))
