"""Make a goal image: `python -m envs.goal env=push seed=3 out=img.png`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from envs.protocol import Floats, GoalEnv
from envs.registry import make_env
from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file, replacing
from worldmodel.core.options import from_config
from worldmodel.core.spec import MOST_PIXELS

_MAX_EXTRA_STEPS = 500


@dataclasses.dataclass(frozen=True)
class GoalConfig:
    """Options of a goal image.

    Attributes:
        seed: seed of the start and of the exploration.
        steps: least number of control steps between the start and the goal.
        size: height of the image [pixels]. The width scales with it. None for the camera's own size.
        out: the PNG file to write. With several cameras, each camera's name is added to the name of its file.
    """

    seed: int
    steps: int
    size: int | None
    out: str

    def __post_init__(self) -> None:
        for key, low, high in (("seed", 0, 2**32 - 1), ("steps", 1, 10_000), ("size", 8, MOST_PIXELS)):
            value = getattr(self, key)
            if value is not None and not low <= value <= high:
                raise UserError(f"{key} {value} cannot be used: expected a whole number from {low} to {high}")
        if Path(self.out).suffix.lower() != ".png":
            raise UserError(f"out '{self.out}' is not a PNG file: expected a path that ends in .png")


def paths_of(out: Path, cameras: Sequence[str]) -> dict[str, Path]:
    """The file of each camera's image: `goal.png`, or for several cameras `goal.front.png` and `goal.wrist.png`."""
    if len(cameras) == 1:
        return {cameras[0]: out}
    return {camera: out.with_name(f"{out.stem}.{camera}{out.suffix}") for camera in cameras}


def explore_to_goal(env: GoalEnv, seed: int, num_steps: int) -> tuple[Floats, Floats]:
    """Start and goal state, `[N]` each. The goal is the state that exploration reaches after at least `num_steps` steps
    from a reset, as soon as it is interesting.

    Raises:
        UserError: if exploration reaches no interesting state.
    """
    _, info = env.reset(seed=seed)
    start = info["state"]
    explorer = env.explorer(np.random.default_rng(seed))
    for step in range(1, num_steps + _MAX_EXTRA_STEPS + 1):
        _, _, diverged, _, info = env.step(explorer.act(env))
        if diverged:
            break
        if step >= num_steps and env.is_interesting(start, info["state"]):
            return np.asarray(start, np.float64), np.asarray(info["state"], np.float64)
    raise UserError(f"seed {seed}: exploring {env.name} leads nowhere in {step} steps: try another seed")


def save_png(
    pixels: np.ndarray[Any, np.dtype[np.uint8]], path: Path, states: Mapping[str, Floats], environment: str
) -> None:
    """Write an image `[H, W, 3]`. If writing fails, `path` keeps its old content.

    `states` go into text chunks, with the name of the `environment` that they belong to. A run toward the image can
    then begin at the same start, and the simulator's success rule can decide whether it reached the goal. No planner
    sees them, and a photo does not need them.

    Raises:
        OSError: if the file cannot be written.
    """
    notes = PngInfo()
    notes.add_text("environment", environment)
    for name, state in states.items():
        notes.add_text(name, json.dumps(state.tolist()))
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, format="PNG", pnginfo=notes)


@command("goal", goes_on=False)
def main(config: Config) -> None:
    goal = from_config(GoalConfig, plain_options(config), "goal")
    env = make_env(config["env"])
    try:
        paths = paths_of(Path(goal.out), [camera.name for camera in env.cameras])
        for path in paths.values():
            output_file(path)
        start, end = explore_to_goal(env, goal.seed, goal.steps)
        pictures = {camera: env.render_state(end, camera, goal.size) for camera in paths}
    finally:
        env.close()
    for camera, path in paths.items():
        save_png(pictures[camera], path, {"start_state": start, "goal_state": end}, env.name)
        height, width, _ = pictures[camera].shape
        console.print(f"goal image: {path} ({width} x {height} pixels)")
    named = ", ".join(f"{camera}: {path}" for camera, path in paths.items())
    console.print(next_command("planning.run", f"goal={goal.out}" if len(paths) == 1 else f"'goal={{{named}}}'"))


if __name__ == "__main__":
    main()
