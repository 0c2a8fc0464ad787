"""Record exploration: `python -m envs.collect env=push`.

This entry module joins `envs` and `worldmodel.data`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import signal
import time
from collections.abc import Generator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from envs.protocol import Explorer, GoalEnv
from envs.registry import describe, make_env
from worldmodel.cli.command import Config, command, next_command, plain_options, stopped
from worldmodel.cli.console import console
from worldmodel.cli.programs import as_typed
from worldmodel.cli.progress import Steps
from worldmodel.core.files import output_folder
from worldmodel.core.machine import num_processors, require_memory
from worldmodel.core.options import from_config
from worldmodel.core.seeds import FIRST_EVALUATION_SEED
from worldmodel.core.shards import Shard
from worldmodel.data import Episode, EpisodeWriter
from worldmodel.data.inspection import bytes_on_disk
from worldmodel.data.store.files import require_folder

_MAX_ATTEMPTS = 100


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """Options of a recording.

    Attributes:
        episodes: number of episodes in the finished recording.
        episode_steps: actions per episode.
        seed: seed of the recording. Episode i depends on (seed, i) alone.
        workers: number of processes, or None for one per processor.
        out: path of the store.
        shard: part of the episodes that is recorded, such as `3/64`, None for all of them. It has a store of its own,
            whose path is `place`.
    """

    episodes: int
    episode_steps: int
    seed: int
    workers: int | None
    out: str
    shard: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("episode_steps", 1), ("seed", 0), ("workers", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} {value}: expected a whole number of at least {least}")
        most = 4 * max(num_processors(), 4)
        if self.workers is not None and self.workers > most:
            raise ValueError(f"workers {self.workers}: this machine has {num_processors()} processors, at most {most}")
        if not self.out:
            raise ValueError("out is empty: expected a path")
        if not self.indices:
            raise ValueError(f"shard {self.shard} of {self.episodes} episodes has none: expected fewer shards")

    @property
    def indices(self) -> range:
        """The episodes that are recorded."""
        return range(self.episodes) if self.shard is None else Shard.read(self.shard).of(self.episodes)

    @property
    def place(self) -> Path:
        """The path of the store that is written."""
        return Path(self.out) if self.shard is None else Shard.read(self.shard).beside(Path(self.out))


@dataclasses.dataclass(frozen=True)
class ExploreConfig:
    """Shares of the kinds of exploration. They are weights, which need not sum to one.

    Attributes:
        random: smooth random actions.
        contact: pushes against objects.
        primitives: grasping, carrying and putting down, opening and closing.
        held: actions near objects that are held for some control steps, as a planner's are.
    """

    random: float | None = None
    contact: float | None = None
    primitives: float | None = None
    held: float | None = None

    @property
    def shares(self) -> dict[str, float] | None:
        """The shares that are given, None if all are the environment's own."""
        given = {kind: share for kind, share in dataclasses.asdict(self).items() if share is not None}
        return given or None


def record_episode(
    env: GoalEnv, seed: int, index: int, num_steps: int, shares: Mapping[str, float] | None = None
) -> Episode:
    """Episode `index` of the recording with `seed`. It does not depend on what `env` did before.

    A diverged simulation is useless for learning. The episode then starts again with the next seed in line.

    Args:
        env: the environment.
        seed: seed of the recording.
        index: number of the episode.
        num_steps: actions per episode.
        shares: shares of the kinds of exploration, None for the environment's own.
    """
    for attempt in range(_MAX_ATTEMPTS):
        reset_source, explorer_source = np.random.SeedSequence((seed, index, attempt)).spawn(2)
        reset_seed = int(reset_source.generate_state(1)[0]) % FIRST_EVALUATION_SEED
        explorer = _make_explorer(env, np.random.default_rng(explorer_source), shares)
        episode = _attempt_episode(env, reset_seed, explorer, num_steps)
        if episode is not None:
            return episode
    raise RuntimeError(f"episode {index}: the simulation diverged {_MAX_ATTEMPTS} times in a row")


def _make_explorer(env: GoalEnv, rng: np.random.Generator, shares: Mapping[str, float] | None) -> Explorer:
    return env.explorer(rng) if shares is None else env.explorer(rng, shares)


def _attempt_episode(env: GoalEnv, reset_seed: int, explorer: Explorer, num_steps: int) -> Episode | None:
    observation, info = env.reset(seed=reset_seed)
    observations, states, actions = [observation], [info["state"]], []
    for _ in range(num_steps):
        action = explorer.act(env)
        observation, _, terminated, _, info = env.step(action)
        if terminated:
            return None
        actions.append(action)
        observations.append(observation)
        states.append(info["state"])
    return Episode.of_steps(observations, actions, states, reset_seed)


def _work(
    results: Connection,
    env_options: dict[str, Any],
    seed: int,
    num_steps: int,
    indices: range,
    shares: Mapping[str, float] | None,
) -> None:
    """Record `indices` in turn. Sending waits for the reader, so a worker is never more than one episode ahead."""
    env = make_env(env_options)
    try:
        for index in indices:
            results.send(record_episode(env, seed, index, num_steps, shares))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the main process has ended, perhaps killed, so nothing is left to do
    finally:
        env.close()
        results.close()


def record_in_parallel(
    env_options: dict[str, Any],
    seed: int,
    num_steps: int,
    indices: range,
    num_workers: int,
    shares: Mapping[str, float] | None = None,
) -> Generator[Episode]:
    """Episodes `indices` in order, recorded by `num_workers` processes that take turns.

    Raises:
        RuntimeError: when a worker stops early.
    """
    # Spawned, not forked: a child forked after the first rendering hangs in the graphics library.
    context = multiprocessing.get_context("spawn")
    workers, pipes = [], []
    resource_tracker.ensure_running()  # starting it unblocks the signal, so it starts before the signal is blocked
    # Ctrl-C reaches every process of the terminal. Children inherit the blocked signal and leave it to this process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for number in range(min(num_workers, len(indices))):
            receiver, sender = context.Pipe(duplex=False)
            share = indices[number::num_workers]
            arguments = (sender, env_options, seed, num_steps, share, shares)
            worker = context.Process(target=_work, args=arguments, daemon=True)
            worker.start()
            sender.close()
            workers.append(worker)
            pipes.append(receiver)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        for turn, index in enumerate(indices):
            number = turn % len(workers)
            try:
                episode = pipes[number].recv()
            except EOFError:
                workers[number].join()
                raise RuntimeError(
                    f"worker {number} stopped while recording episode {index} "
                    f"(exit code {workers[number].exitcode}); its own message is above"
                ) from None
            yield episode
    finally:
        for pipe in pipes:
            pipe.close()
        for worker in workers:
            worker.terminate()  # safe, as it writes nothing. While it imports, it ignores the closed pipe.
        for worker in workers:
            worker.join()


def collect(config: CollectConfig, env_options: dict[str, Any], shares: Mapping[str, float] | None = None) -> None:
    """Record the missing episodes of the recording that `config` describes.

    Args:
        config: the recording.
        env_options: the environment's configuration.
        shares: shares of the kinds of exploration, None for the environment's own.

    Raises:
        UserError: if the store at `config.out` was recorded with other options, is being written by another process,
            or cannot be written, and for shares that the environment does not accept.
        RuntimeError: if a worker stops early. Committed episodes are kept.
    """
    path, indices = config.place, config.indices
    require_folder(path)
    output_folder(path.parent)
    env = make_env(env_options)
    try:
        env.reset(seed=config.seed)
        if shares is not None:
            env.explorer(np.random.default_rng(0), shares)  # raises for shares that cannot be used
        spec = describe(env, env_options)
    finally:
        env.close()
    pixels = sum(camera.height * camera.width * 3 for camera in spec.cameras)
    in_memory = (config.episode_steps + 1) * pixels * (config.workers or num_processors())
    require_memory(f"episode_steps={config.episode_steps}", in_memory)  # every worker holds an episode
    recording: dict[str, Any] = {"seed": config.seed, "episode_steps": config.episode_steps}
    if shares is not None:
        recording["explore"] = dict(shares)
    if config.shard is not None:
        recording["first_episode"] = indices.start
    with EpisodeWriter(path, spec, recording) as writer:
        present = writer.num_episodes
        if present >= len(indices):
            console.print(f"[green]already recorded[/]: {present} episodes, {len(indices)} asked for")
        else:
            if present:
                console.print(f"going on after {present} episodes")
            _record_missing(writer, config, env_options, indices[present:], shares)
        num_episodes, num_rows = writer.num_episodes, writer.num_rows
    console.print(
        f"recording: {path} · {num_episodes} episodes, {num_rows - num_episodes} steps, "
        f"{bytes_on_disk(path) / 1e6:.1f} MB on disk"
    )


def _record_missing(
    writer: EpisodeWriter,
    config: CollectConfig,
    env_options: dict[str, Any],
    indices: range,
    shares: Mapping[str, float] | None,
) -> None:
    num_workers = config.workers or num_processors()
    began, steps_each = time.monotonic(), config.episode_steps
    progress = Steps(stays=False)
    before, asked_for = writer.num_episodes, len(config.indices)
    progress.begin("recording", before * steps_each, asked_for * steps_each)
    try:
        episodes = record_in_parallel(env_options, config.seed, steps_each, indices, num_workers, shares)
        with contextlib.closing(episodes):
            for done, episode in enumerate(episodes, start=before + 1):
                writer.append(episode)
                progress.step(done * steps_each, f"{done} episodes")
        writer.commit()
    finally:
        progress.end()
    seconds = time.monotonic() - began
    steps = len(indices) * config.episode_steps
    rate = steps / seconds
    console.print(f"recorded {steps} steps in {seconds:.1f} s: {rate:.0f} steps/s with {num_workers} workers")


@command("collect")
def main(config: Config) -> None:
    options = from_config(CollectConfig, plain_options(config), "collect")
    explore = from_config(ExploreConfig, config["explore"], "explore")
    try:
        collect(options, config["env"], explore.shares)
    except RuntimeError as error:
        raise SystemExit(stopped(str(error))) from error
    if options.shard is None:
        console.print(next_command("worldmodel.pretrain", out="data"))
    else:
        shards = Path(options.out).with_name(f"{Path(options.out).stem}.*-of-*{Path(options.out).suffix}")
        line = f"once all shards are there: python -m worldmodel.data merge {shards} {options.out}"
        console.print(as_typed(line), markup=False)


if __name__ == "__main__":
    main()
