"""Draws `plan.png`, one figure that summarises a run."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from planning.environment import Environment
from planning.evaluation.outcome import Outcome
from planning.evaluation.report import short
from planning.evaluation.task import Task
from worldmodel.core.files import appearing

_PICTURE = 320  # pixels
_COLOURS = ("#e07a00", "#00798c", "#7a3b96", "#5a7d2a")


def draw_plan(env: Environment, task: Task, outcome: Outcome, verdict: str, path: Path) -> None:
    """Draw start, goal and end, the paths, and the distances over time. `verdict` is the headline."""
    figure = Figure(figsize=(10, 6.6), dpi=110, layout="constrained")
    figure.suptitle(textwrap.fill(verdict, 90), fontsize=12)
    grid = figure.add_gridspec(2, 6, height_ratios=[3.2, 2])
    start, goal, end = (figure.add_subplot(grid[0, 2 * i : 2 * i + 2]) for i in range(3))
    last = len(outcome.states) - 1
    _show(start, env.render_state(outcome.states[0], size=_PICTURE), "start")
    sharp = task.picture if task.goal_state is None else env.render_state(task.goal_state, size=_PICTURE)
    _show(goal, sharp, "goal")
    seconds = last * env.control_step_s
    _show(end, env.render_state(outcome.states[-1], size=_PICTURE), f"after {last} steps ({seconds:.1f} s)")
    _draw_paths(env, outcome.states, end)
    if outcome.errors:
        _draw_distance(figure.add_subplot(grid[1, :3]), outcome.distance)
        _draw_errors(env, figure.add_subplot(grid[1, 3:]), outcome)
    else:
        _draw_distance(figure.add_subplot(grid[1, :]), outcome.distance)
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as partial:
        figure.savefig(partial, format="png")


def _show(axes: Axes, picture: NDArray[np.uint8], title: str) -> None:
    axes.imshow(picture, extent=(0, 1, 1, 0), interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_paths(env: Environment, states: NDArray[np.float64], axes: Axes) -> None:
    for colour, (name, points) in zip(_COLOURS, env.path_points(states).items(), strict=False):
        axes.plot(points[:, 0], points[:, 1], "-", color="white", linewidth=3.2, alpha=0.7)
        axes.plot(points[:, 0], points[:, 1], "-", color=colour, linewidth=1.8, label=name)
        axes.plot(*points[0], "o", color=colour, markeredgecolor="white", markersize=6)
    axes.set_xlim(0, 1)
    axes.set_ylim(1, 0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=4, frameon=False, fontsize=9)


def _draw_distance(axes: Axes, distance: NDArray[np.float64]) -> None:
    axes.plot(distance, ".-", color="#333333", markersize=4)
    # A broken model has no finite distance, and a run that starts at its goal may have only distances of zero.
    axes.set_ylim(0, 1.1 * distance[np.isfinite(distance)].max(initial=1e-3))
    _label(axes, "latent distance to the goal")


def _draw_errors(env: Environment, axes: Axes, outcome: Outcome) -> None:
    """Draw every metric in units of its tolerance, so that they share an axis, and success lies below one line."""
    for colour, metric in zip(_COLOURS, env.metrics, strict=False):
        error = outcome.errors[metric.name]
        label = f"{metric.name} (at the end {short(error[-1])} {metric.unit}, tolerance {short(metric.tolerance)})"
        axes.plot(error / metric.tolerance, color=colour, label=label)
    axes.axhline(1, color="#888888", linewidth=1, linestyle="--")
    axes.set_ylim(0, 1.1 * max(1.0, *(outcome.errors[m.name].max() / m.tolerance for m in env.metrics)))
    axes.legend(fontsize=8, frameon=False)
    _label(axes, "error, in tolerances")


def _label(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("control step", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
