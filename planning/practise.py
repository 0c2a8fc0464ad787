"""Record a model's own plans toward recorded goals, so that it can learn what came of them.

python -m planning.practise env=push checkpoint=runs/push/model
python -m planning.practise env=push checkpoint=runs/push/model data=runs/push/data.zarr episodes=300

A search finds actions whose imagined future is good, also where it is good only because the model is wrong. Exploration
rarely tries just these actions. A recording of the plans themselves shows the model where it is wrong (dataset
aggregation, arXiv 1011.0686). `docs/train.md` has the whole loop, in which `worldmodel.train init_from=` follows.

Shapes: `B` episodes at a time, `T` control steps, `N` simulator state, `A` action dimensions.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from envs.protocol import GoalEnv
from planning.decision import Decision
from planning.evaluation.manifest import MOST_PAIRS, Pair
from planning.evaluation.options import EpisodesConfig
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.report import Rate
from planning.evaluation.rollout import Policy, rollout
from planning.evaluation.task import Task, from_pair
from planning.inputs import read_start
from planning.loading import RUNS, choose_checkpoint, chosen_planner, read_model, with_proposals
from planning.registry import make_strategy
from planning.simulation import open_env, open_more
from worldmodel.cli.command import Config, command, plain_options
from worldmodel.cli.console import console, escape
from worldmodel.cli.programs import as_typed
from worldmodel.cli.progress import Steps
from worldmodel.core.device import pick_device, pick_precision
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_folder
from worldmodel.core.observation import Observation
from worldmodel.core.options import from_config
from worldmodel.data import Episode, EpisodeWriter
from worldmodel.data.clips import rows_followed
from worldmodel.data.store.files import require_folder
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.training.recordings import open_recording

Actions = NDArray[np.float32]
_MOST_DRAWS: Final = 1000  # of a pair in which something moves


@dataclasses.dataclass(frozen=True)
class PractiseConfig(EpisodesConfig):
    """The options in `configs/practise.yaml` beside its groups. The file explains each."""

    data: str
    episodes: int
    steps_ahead: int
    noise: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (1 <= self.episodes <= MOST_PAIRS and self.steps_ahead >= 1 and 0 <= self.noise <= 1):
            raise ValueError(
                f"episodes={self.episodes} steps_ahead={self.steps_ahead} noise={self.noise:g}: 1 to {MOST_PAIRS:,}, "
                "at least 1 and 0 to 1 are accepted"
            )


class RecordedPairs:
    """Draws starts and goals from a recording.

    Args:
        env: the simulator, which says whether enough moves.
        store: the recording.
        steps_ahead: control steps from start to goal.
        seed: seed of all draws. Pair i depends on (seed, i) alone.

    Raises:
        UserError: for a recording without the simulator's states, or without an episode that is long enough.
    """

    def __init__(self, env: GoalEnv, store: TrajectoryStore, steps_ahead: int, seed: int) -> None:
        if not store.spec.state_size:
            raise UserError(
                f"{store.name} has no simulator states to start from: expected a recording of `python -m "
                "envs.collect`; RobotController(record=...) records what a robot lives through"
            )
        self._rows = rows_followed(store.episode_ends, steps_ahead)
        if not len(self._rows):
            raise UserError(f"steps_ahead={steps_ahead}: no episode of {store.name} has so many actions")
        self._env, self._states = env, store.column("state")
        self._steps_ahead, self._seed, self._name = steps_ahead, seed, store.name

    def draw(self, index: int) -> Pair:
        """Pair number `index`. On the way, enough moves (`GoalEnv.is_interesting`).

        Raises:
            UserError: if hardly any pair of the recording is like that.
        """
        rng = np.random.default_rng([self._seed, index])
        for _ in range(_MOST_DRAWS):
            row = int(rng.choice(self._rows))
            start, goal = (np.asarray(self._states[at], np.float64) for at in (row, row + self._steps_ahead))
            if self._env.is_interesting(start, goal):
                return Pair(index, tuple(start.tolist()), tuple(goal.tolist()))
        raise UserError(
            f"steps_ahead={self._steps_ahead}: nothing moves in {_MOST_DRAWS} pairs of {self._name}; more steps are "
            "needed"
        )


class Practising(Policy):
    """Acts as another policy, some rows with noise, and keeps what was seen and done.

    Args:
        policy: what chooses the actions.
        pairs: the pair of every row. Those with odd seeds act with noise.
        noise: standard deviation of noise on the actions `[A]`, in their units.
        bounds: lowest and highest actions `[A]`.
        seed: seed of the noise.

    Attributes:
        seen: all observations so far `[B, ...]`.
        done: the actions after each of them `[B, A]`.
    """

    def __init__(
        self, policy: Policy, pairs: Sequence[Pair], noise: Actions, bounds: tuple[Actions, Actions], seed: int
    ) -> None:
        self._policy, self._bounds = policy, bounds
        self._noise = [noise * (pair.seed % 2) for pair in pairs]
        self._streams = [np.random.default_rng([seed, pair.seed]) for pair in pairs]
        self.seen: list[Observation] = []
        self.done: list[Actions] = []

    def reset(self, tasks: Sequence[Task]) -> None:
        self._policy.reset(tasks)

    def act(self, observation: Observation) -> Decision:
        decision = self._policy.act(observation)
        drawn = [
            noise * rng.standard_normal(noise.shape) for noise, rng in zip(self._noise, self._streams, strict=True)
        ]
        actions = np.clip(decision.actions + np.stack(drawn), *self._bounds).astype(np.float32)
        self.seen.append(observation)
        self.done.append(actions)
        return dataclasses.replace(decision, actions=actions)

    def episode(self, row: int, states: NDArray[np.float64], seed: int) -> Episode:
        """The episode of one row, with the states that it came through `[T+1, N]`."""
        seen = [
            {"images": {camera: images[row] for camera, images in each.images.items()}, "proprio": each.proprio[row]}
            for each in self.seen
        ]
        return Episode.of_steps(seen, [actions[row] for actions in self.done[:-1]], list(states), seed)


def practise(
    envs: Sequence[GoalEnv], pairs: Sequence[Pair], policy: Policy, budget: int, noise: float, seed: int
) -> list[Episode]:
    """An episode for each of `pairs`, all at once, without those whose simulation diverged.

    Args:
        envs: as many environments as pairs, or more.
        pairs: starts and goals. Those with odd seeds act with noise.
        policy: what chooses the actions.
        budget: control steps.
        noise: standard deviation of noise on the actions, as a share of their range.
        seed: seed of the noise.
    """
    space = envs[0].action_space
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    practising = Practising(policy, pairs, noise * (high - low), (low, high), seed)
    tasks = [from_pair(env, pair) for env, pair in zip(envs, pairs, strict=False)]
    happened = rollout(envs, tasks, practising, budget, look_at_end=True)
    rows = enumerate(zip(pairs, happened, strict=True))
    return [practising.episode(row, path.states, pair.seed) for row, (pair, path) in rows if not path.diverged]


@command("practise")
def main(config: Config) -> None:
    """Record the episodes that are missing, and say how often the goal was reached."""
    options = from_config(PractiseConfig, plain_options(config), "practise")
    device = pick_device(options.device)
    options = dataclasses.replace(options, precision=pick_precision(options.precision, device))
    settings = chosen_planner(config["planner"], options.checkpoint, config["env"]["name"])
    strategy = make_strategy(settings, options.seed)
    store = open_recording(options.data, config["env"])
    with contextlib.ExitStack() as opened:
        env, spec = open_env(config["env"])
        opened.callback(env.close)
        checkpoint = choose_checkpoint(options.checkpoint, spec.env)
        model = read_model(checkpoint, device, options.precision, options.compile, spec)
        store.spec.require_match(spec, f"recording {store.name}", f"env {spec.env}")
        pairs = RecordedPairs(env, store, options.steps_ahead, options.seed)
        envs = [env, *open_more(config["env"], min(options.batch, options.episodes) - 1, opened)]
        start = read_start(options.command, spec.action)
        strategy = with_proposals(strategy, model)
        policy = WorldModelPolicy(model, strategy, device, start=start)
        path = Path(options.out or RUNS / spec.env / "practice.zarr")
        require_folder(path)
        output_folder(path.parent)
        origin = _origin(options, {**settings, **strategy.proposed}, checkpoint.sha256, store)
        with EpisodeWriter(path, spec, origin) as writer:
            strategy.warn()
            _record_missing(writer, path, envs, pairs, policy, options)
        _report(env, pairs, TrajectoryStore.open(path))
    console.print(f"recording: {escape(str(path))}")
    console.print(as_typed(f"next: python -m worldmodel.data merge {options.data} {path} NEW, to learn on from both"))


def _origin(options: PractiseConfig, planner: Config, checkpoint: str, store: TrajectoryStore) -> dict[str, Any]:
    """What decides the episodes. A recording that was made otherwise is not added to."""
    decisive = ("steps_ahead", "noise", "budget", "seed", "command", "precision")
    own = {name: getattr(options, name) for name in decisive}
    return {**own, "checkpoint": checkpoint, "planner": planner, "recording": store.identity}


def _record_missing(
    writer: EpisodeWriter,
    path: Path,
    envs: Sequence[GoalEnv],
    pairs: RecordedPairs,
    policy: Policy,
    options: PractiseConfig,
) -> None:
    # An episode is named by its pair. Those that diverged are left out.
    known = list(TrajectoryStore.open(path).episode_seeds) if writer.num_episodes else []
    missing = range(int(known[-1]) + 1 if known else 0, options.episodes)
    if not missing:
        console.print(f"[green]already recorded[/]: {writer.num_episodes} episodes")
        return
    progress = Steps(stays=False)
    progress.begin("practice", missing.start * options.budget, options.episodes * options.budget)
    try:
        for first in missing[:: len(envs)]:
            group = [pairs.draw(index) for index in range(first, min(first + len(envs), options.episodes))]
            for episode in practise(envs, group, policy, options.budget, options.noise, options.seed):
                writer.append(episode)
            writer.commit()
            progress.step((first + len(group)) * options.budget, f"{writer.num_episodes} episodes")
    finally:
        progress.end()


def _report(env: GoalEnv, pairs: RecordedPairs, store: TrajectoryStore) -> None:
    """How often the goals were reached, without noise and with it."""
    outcomes: dict[str, list[tuple[bool, bool]]] = {"without noise": [], "with noise": []}
    states, begin = store.column("state"), 0
    for seed, end in zip(store.episode_seeds, store.episode_ends, strict=True):
        goal = np.array(pairs.draw(int(seed)).goal)
        reached = np.asarray(env.is_success(np.asarray(states[begin:end]), goal))
        outcomes["with noise" if seed % 2 else "without noise"].append((bool(reached.any()), bool(reached[-1])))
        begin = end
    for name, found in outcomes.items():
        if found:
            at_any, at_end = (Rate.of([each[which] for each in found]) for which in (0, 1))
            console.print(
                f"{name}: {len(found)} goals, {at_any} % reached at any step, {at_end} % at the end", highlight=False
            )


if __name__ == "__main__":
    main()
