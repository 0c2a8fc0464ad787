"""What exploration with the arm does to its objects, by kind of exploration.

python -m benchmarks.exploration
python -m benchmarks.exploration env=arm_drawer episodes=40

Shares of episodes of 50 control steps in which a cube moves by more than 2 cm, is lifted by more than 3 cm, or the
drawer moves by more than 6 cm, with 95 % intervals.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

import numpy as np
from rich.table import Table

from envs.arm.world import ArmWorld
from envs.protocol import Floats, GoalEnv
from envs.registry import make_named
from planning.evaluation.report import Rate
from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError

TASKS: Final = ("arm_push", "arm_pick_place", "arm_drawer")
STEPS: Final = 50
MOVED_M, LIFTED_M, DRAWN_M = 0.02, 0.03, 0.06


def explored(env: GoalEnv, seed: int, shares: Mapping[str, float] | None) -> Floats:
    """States `[T + 1, N]` of one episode."""
    states = [env.reset(seed=seed)[1]["state"]]
    explorer = env.explorer(np.random.default_rng(seed), shares)
    for _ in range(STEPS):
        states.append(env.step(explorer.act(env))[4]["state"])
    return np.array(states)


def effects(world: ArmWorld, states: Floats) -> tuple[bool, bool, bool]:
    """Whether a cube was moved, a cube was lifted, and the drawer moved, in `states [T + 1, N]`."""
    layout = world.layout
    ways = [layout.cube(states, cube) - layout.cube(states[0], cube) for cube in range(len(layout.cubes))]
    moved = any(bool((np.linalg.norm(way, axis=-1) > MOVED_M).any()) for way in ways)
    lifted = any(bool((way[:, 2] > LIFTED_M).any()) for way in ways)
    return moved, lifted, layout.drawer is not None and bool(np.ptp(layout.opening(states)) > DRAWN_M)


def main(arguments: list[str]) -> None:
    """Print a table. Arguments are `env=NAME` for one task instead of all, and `episodes=N`."""
    given = dict(argument.split("=", 1) for argument in arguments)
    episodes = int(given.get("episodes", "100"))
    table = Table(title=f"episodes of {STEPS} steps in which exploration has an effect, of {episodes}")
    for column in ("task", "kind", "moved", "lifted", "drawer"):
        table.add_column(column, justify="left" if column in ("task", "kind") else "right")
    for name in [given["env"]] if "env" in given else TASKS:
        env = make_named(name, image_size=8)
        assert isinstance(env.world, ArmWorld), f"{name} is no task of the arm"
        kinds = list(env.task.exploration)
        mixtures: dict[str, Mapping[str, float] | None] = {"as shipped": None}
        mixtures |= {kind: {each: float(each == kind) for each in kinds} for kind in kinds}
        for kind, shares in mixtures.items():
            found = np.array([effects(env.world, explored(env, seed, shares)) for seed in range(episodes)])
            table.add_row(name, kind, *(str(Rate.of(hits.tolist())) for hits in found.T))
        env.close()
    console.print(table)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        fail(str(error))
