"""Running episodes toward manifest goals, several at a time, whoever chooses the actions."""

from __future__ import annotations

import abc
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from planning.controller import Observations
from planning.environment import Environment
from planning.manifest import Pair
from worldmodel.core.files import naming


class Policy(abc.ABC):
    """Chooses actions for B environments at once."""

    @abc.abstractmethod
    def reset(self, pairs: Sequence[Pair], goals: NDArray[np.uint8]) -> None:
        """Begin B episodes toward the goal pictures uint8 `[B, H, W, 3]` of `pairs`."""

    @abc.abstractmethod
    def act(self, observations: Observations) -> NDArray[np.float32]:
        """Actions `[B, A]`."""

    def steps_without_plan(self, row: int) -> int:
        """Control steps since `reset` in which environment `row` had no usable plan and stood still."""
        return 0


@dataclasses.dataclass(frozen=True)
class Episode:
    """What became of one pair.

    Attributes:
        index: position in the manifest.
        success_any: whether the goal was reached after any step.
        success_final: whether it was reached after the last one.
        half_any: like `success_any`, with half of every tolerance.
        half_final: like `success_final`, with half of every tolerance.
        reached_at: control steps until the goal was first reached; None if it never was.
        final_errors: per metric, in its unit; None where the simulation diverged.
        diverged: whether the simulation broke down, which counts as failure at the end.
        states: simulator states from start to end, `[T+1][N]`.
        steps_without_plan: control steps in which there was no usable plan; 0 in logs of before it was counted.
    """

    index: int
    success_any: bool
    success_final: bool
    half_any: bool
    half_final: bool
    reached_at: int | None
    final_errors: dict[str, float] | None
    diverged: bool
    states: list[list[float]]
    steps_without_plan: int = 0


def run_batch(
    envs: Sequence[Environment],
    pairs: Sequence[tuple[int, Pair]],
    policy: Policy,
    budget: int,
    on_step: Callable[[], None] = lambda: None,
) -> list[Episode]:
    """One episode of `budget` control steps per `(index, pair)`, in `envs[:B]`.

    An episode goes on after success, since holding the goal is measured too; a diverged one stands still.
    """
    envs = envs[: len(pairs)]
    states = [[np.array(pair.start)] for _, pair in pairs]
    latest = [env.reset(options={"state": np.array(pair.start)})[0] for env, (_, pair) in zip(envs, pairs, strict=True)]
    goals = np.stack([env.render_state(np.array(pair.goal)) for env, (_, pair) in zip(envs, pairs, strict=True)])
    policy.reset([pair for _, pair in pairs], goals)
    diverged = [False] * len(envs)
    for _ in range(budget):
        actions = policy.act(Observations.stack(latest))
        for row, env in enumerate(envs):
            if diverged[row]:
                continue
            observation, _, diverged[row], _, info = env.step(actions[row])
            if not diverged[row]:
                latest[row] = observation
                states[row].append(info["state"])
        on_step()
    return [
        _judge(env, index, pair, np.array(path), broken, policy.steps_without_plan(row))
        for row, (env, (index, pair), path, broken) in enumerate(zip(envs, pairs, states, diverged, strict=True))
    ]


def _judge(
    env: Environment, index: int, pair: Pair, states: NDArray[np.float64], diverged: bool, steps_without_plan: int
) -> Episode:
    goal = np.array(pair.goal)
    errors = env.goal_errors(states, goal)
    reached = np.asarray(env.is_success(states, goal))
    half = np.asarray(env.is_success(states, goal, scale=0.5))
    return Episode(
        index,
        success_any=bool(reached.any()),
        success_final=bool(reached[-1]) and not diverged,
        half_any=bool(half.any()),
        half_final=bool(half[-1]) and not diverged,
        reached_at=int(reached.argmax()) if reached.any() else None,
        final_errors=None if diverged else {m.name: float(errors[m.name][-1]) for m in env.metrics},
        diverged=diverged,
        states=states.tolist(),
        steps_without_plan=steps_without_plan,
    )


class EpisodeLog:
    """Finished episodes, one JSON line each, so that an interrupted evaluation goes on where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[int, Episode]:
        """Finished episodes by index. A line that a crash cut short does not count."""
        episodes: dict[int, Episode] = {}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    episode = Episode(**json.loads(line))
                except (ValueError, TypeError):
                    continue
                episodes[episode.index] = episode
        return episodes

    def append(self, episodes: Iterable[Episode]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.path), self.path.open("a+b") as file:
            # After a line that was cut short, a new one must not be glued to it.
            if file.tell() and not self.path.read_bytes().endswith(b"\n"):
                file.write(b"\n")
            for episode in episodes:
                file.write(json.dumps(dataclasses.asdict(episode)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def run_all(
    envs: Sequence[Environment],
    pairs: Sequence[Pair],
    policy: Policy,
    budget: int,
    log: EpisodeLog,
    on_progress: Callable[[int, Sequence[Episode]], None] = lambda steps, episodes: None,
) -> list[Episode]:
    """Every pair's episode, those that `log` holds already taken from there, `len(envs)` at a time.

    `on_progress(steps, episodes)` hears of `steps` newly done control steps and of all episodes finished so far.
    """
    done = log.read()
    done = {index: done[index] for index in sorted(done) if index < len(pairs)}
    on_progress(len(done) * budget, list(done.values()))
    waiting = [(index, pair) for index, pair in enumerate(pairs) if index not in done]
    for begin in range(0, len(waiting), len(envs)):
        batch = waiting[begin : begin + len(envs)]
        tick = functools.partial(on_progress, len(batch), list(done.values()))
        episodes = run_batch(envs, batch, policy, budget, tick)
        log.append(episodes)
        done.update((episode.index, episode) for episode in episodes)
    on_progress(0, list(done.values()))
    return [done[index] for index in range(len(pairs))]
