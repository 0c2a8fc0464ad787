"""Recording: the same episodes whatever the workers, and nothing lost to kills."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.store.kill_collect import (
    child_processes,
    committed_episodes,
    differences,
    kill_at_random,
    start_collect,
    wait_until_gone,
)
from envs import collect
from envs.registry import env_options, make_env
from tests.commands import assert_refused, type_in
from worldmodel.core.errors import UserError
from worldmodel.core.options import from_config
from worldmodel.data import StoreError, TrajectoryStore
from worldmodel.data.store.rewriting import merge

TINY = ("episodes=150", "episode_steps=4", "env.image_size=16", "workers=2")


def config(out: Path, **changes: object) -> collect.CollectConfig:
    values: dict[str, object] = {"episodes": 5, "episode_steps": 6, "seed": 0, "workers": 2, "out": str(out)}
    return from_config(collect.CollectConfig, values | changes, "collect")


@pytest.fixture(scope="module")
def options() -> dict[str, object]:
    return env_options("push", image_size=16)


@pytest.fixture(scope="module")
def recording(tmp_path_factory, options) -> Path:
    out = tmp_path_factory.mktemp("collect") / "data.zarr"
    collect.collect(config(out), options)
    return out


def test_episode_i_depends_on_seed_and_i_alone(recording, options):
    store = TrajectoryStore.open(recording)
    env = make_env(options)
    for index in (3, 0, 4, 3):  # another order, one process, an environment that was used before
        alone, stored = collect.record_episode(env, 0, index, 6), store.episode(index)
        for name in ("images/camera", "action", "proprio", "state"):
            np.testing.assert_array_equal(alone.columns[name], stored.columns[name])
        assert alone.seed == stored.seed
    other = collect.record_episode(env, 1, 3, 6)
    assert (other.state != store.episode(3).state).any()
    env.close()
    assert len(set(store.episode_seeds.tolist())) == 5
    assert store.episode_seeds.max() < collect.FIRST_EVALUATION_SEED


def test_shares_of_exploration_are_part_of_a_recording(tmp_path, options):
    explore = from_config(collect.ExploreConfig, {"random": 1, "contact": 0}, "explore")
    shares = explore.shares
    assert shares == {"random": 1, "contact": 0} and collect.ExploreConfig().shares is None
    out = tmp_path / "data.zarr"
    collect.collect(config(out, episodes=2), options, shares)
    store, env = TrajectoryStore.open(out), make_env(options)
    assert store.recording["explore"] == shares
    alone = [collect.record_episode(env, 0, 0, 6, given) for given in (shares, None, {"random": 0.25, "contact": 0.75})]
    env.close()
    np.testing.assert_array_equal(alone[0].action, store.episode(0).action)
    assert (alone[0].action != alone[1].action).any()
    np.testing.assert_array_equal(alone[1].action, alone[2].action)  # these are push's own
    with pytest.raises(UserError, match="explore"):
        collect.collect(config(out, episodes=3), options)


def test_shares_that_an_environment_does_not_have_are_refused_before_anything_is_written(tmp_path, options):
    out = tmp_path / "data.zarr"
    with pytest.raises(UserError, match=r"unknown kind of exploration 'held': choose from contact, random"):
        collect.collect(config(out), options, {"held": 1.0})
    with pytest.raises(UserError, match=r"this environment has no kinds of exploration"):
        collect.collect(config(out), env_options("reacher", image_size=16), {"random": 1.0})
    assert not out.exists()


def test_rows_hold_the_action_taken_at_them(recording, options):
    """Replaying the stored actions from the stored start passes through the stored states and frames."""
    env = make_env(options)
    episode = TrajectoryStore.open(recording).episode(2)
    observation, _ = env.reset(seed=episode.seed)
    for t in range(episode.num_steps):
        np.testing.assert_array_equal(observation["images"]["camera"], episode.images["camera"][t])
        np.testing.assert_array_equal(observation["proprio"], episode.proprio[t])
        np.testing.assert_array_equal(env.get_state(), episode.state[t])
        observation, *_ = env.step(episode.action[t])
    np.testing.assert_array_equal(observation["images"]["camera"], episode.images["camera"][-1])
    assert not episode.action[-1].any()
    env.close()


def test_the_store_describes_its_environment(recording):
    spec = TrajectoryStore.open(recording).spec
    assert (spec.env, spec.only_camera.height, spec.control_step_s) == ("push", 16, 0.1)
    assert spec.action.units == ("m/s", "m/s")
    assert spec.options == {"distractors": False}
    assert spec.simulator.startswith("mujoco 3.")


class _DivergesAtFirst:
    """Passes on to an environment, but says of its first `times` steps that they diverged."""

    def __init__(self, env, times):
        self._env, self._times = env, times

    def __getattr__(self, name):
        return getattr(self._env, name)

    def explorer(self, rng):
        inner = self._env.explorer(rng)
        return type("Unwrapped", (), {"act": lambda _, __: inner.act(self._env)})()

    def step(self, action):
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._times -= 1
        return observation, reward, terminated or self._times >= 0, truncated, info


def test_a_diverged_episode_is_recorded_anew(options):
    env = make_env(options)
    plain = collect.record_episode(env, 0, 0, 4)
    again = collect.record_episode(_DivergesAtFirst(env, 1), 0, 0, 4)
    assert again.seed != plain.seed
    assert again.num_steps == 4
    with pytest.raises(RuntimeError, match="diverged 100 times"):
        collect.record_episode(_DivergesAtFirst(env, 10**6), 0, 0, 4)
    env.close()


def test_the_number_of_workers_does_not_matter_and_more_can_follow(tmp_path, recording, options):
    out = tmp_path / "data.zarr"
    collect.collect(config(out, workers=1, episodes=2), options)
    collect.collect(config(out, workers=2, episodes=5), options)
    assert differences(out, recording) == []
    assert committed_episodes(out) == 5


def test_a_finished_recording_says_so_and_what_comes_next(tmp_path, recording):
    before = (recording / "meta/episode_ends/zarr.json").stat().st_mtime_ns
    same = ("env=push", "env.image_size=16", "episodes=5", "episode_steps=6", f"out={recording}")
    code, printed, _ = type_in(tmp_path, "envs.collect", *same)
    assert code == 0
    assert "already recorded: 5 episodes" in printed
    assert f"{recording} · 5 episodes, 30 steps" in printed
    assert f"next: python -m worldmodel.pretrain env=push env.image_size=16 data={recording}" in printed
    assert (recording / "meta/episode_ends/zarr.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "env_changes", "message"),
    [
        ({"seed": 3}, {}, "recorded with seed 0, this run has 3"),
        ({"episode_steps": 9}, {}, "recorded with episode_steps 6, this run has 9"),
        ({}, {"image_size": 32}, "recorded with cameras .*16.*, this run has .*32"),
        ({}, {"distractors": True}, "recorded with options"),
    ],
)
def test_a_different_recording_in_the_same_place_is_refused(recording, options, changes, env_changes, message):
    with pytest.raises(UserError, match=message):
        collect.collect(config(recording, **changes), options | env_changes)


@pytest.mark.parametrize("name", ["episodes", "episode_steps", "seed", "workers"])
@pytest.mark.parametrize("value", [-1, 1.5, "many", True])
def test_numbers_that_make_no_sense_are_refused(tmp_path, name, value):
    with pytest.raises(UserError, match=f"{name} .*expected a whole number"):
        config(tmp_path, **{name: value})


def test_a_worker_that_fails_is_an_error_that_keeps_what_is_committed(recording, options, capfd):
    with pytest.raises(RuntimeError, match=r"worker 0 stopped while recording episode 5 \(exit code 1\)"):
        list(collect.record_in_parallel(options | {"image_size": -5}, 0, 4, range(5, 7), 1))
    assert "Error" in capfd.readouterr().err


def test_workers_in_the_middle_of_an_episode_are_not_waited_for(options):
    """After Ctrl-C the command once waited for up to ten seconds for each of them."""
    episodes = collect.record_in_parallel(options, 0, 20_000, range(8), 2)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        next(episodes)
    began = time.monotonic()
    episodes.close()
    assert time.monotonic() - began < 5


def test_the_command_refuses_bad_input_with_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    for arguments, message in (
        (("env=pussh",), "did you mean push"),
        (("env=push", "episodes=none_at_all"), "episodes is 'none_at_all': expected a whole number"),
        (("env=push", "workers=100000"), "workers 100000: this machine has "),
        (("env=push", "episode_steps=10000000000"), "episode_steps=10000000000 takes about "),
        (("env=push", f"out={tmp_path}"), "not a trajectory store"),
        (("env=push", "out=/proc/no/where.zarr"), "out '/proc/no' cannot be written to"),
    ):
        assert_refused(type_in(tmp_path, "envs.collect", *arguments), message)


@pytest.mark.slow
def test_killed_at_random_moments_nothing_committed_is_lost(tmp_path, options):
    rng = np.random.default_rng(0)
    unbroken, killed = tmp_path / "unbroken.zarr", tmp_path / "killed.zarr"
    collect.collect(config(unbroken, episodes=150, episode_steps=4, workers=1), options)
    before = 0
    for _ in range(2):  # benchmarks/store/kill_collect.py does twenty
        present, _ = kill_at_random(killed, rng, *TINY)
        assert present >= before
        assert not killed.exists() or differences(killed, unbroken) == []
        before = present
    final = start_collect(killed, *TINY)
    output, _ = final.communicate(timeout=120)
    assert final.returncode == 0, output
    assert committed_episodes(killed) == 150
    assert differences(killed, unbroken) == []


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_recorded_and_ends_the_workers(tmp_path):
    out = tmp_path / "data.zarr"
    process = start_collect(out, "episodes=100000", "episode_steps=4", "env.image_size=16", "workers=2")
    deadline = time.monotonic() + 60
    while committed_episodes(out) == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = child_processes(process.pid)
    seen = committed_episodes(out)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "interrupted" in output
    assert "Traceback" not in output
    assert committed_episodes(out) >= seen > 0
    assert workers
    wait_until_gone(workers, seconds=10)
    assert not out.with_name("data.zarr.lock").exists()


def test_a_damaged_recording_is_not_continued(tmp_path, recording, options):
    out = tmp_path / "data.zarr"
    shutil.copytree(recording, out)
    (out / "data/images/camera/c.2.0.0.0").unlink()  # the one that an append would fill up
    with pytest.raises(StoreError, match="chunk 2 of data/images/camera is missing"):
        collect.collect(config(out, episodes=9), options)


def test_ctrl_c_in_a_terminal_reaches_every_process_and_says_one_thing(tmp_path):
    """A terminal sends the signal to the whole group; the workers must not answer it with tracebacks of their own."""
    line = [sys.executable, "-m", "envs.collect", "env=push", "episodes=5000", f"out={tmp_path / 'data.zarr'}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, cwd=tmp_path, env=environment, start_new_session=True, **pipes)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("data.zarr/data/images/camera/c*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == ""
    assert "interrupted" in out


def test_merged_shards_are_the_whole_recording(tmp_path, recording, options):
    for number in (2, 1, 3):
        collect.collect(config(tmp_path / "data.zarr", shard=f"{number}/3"), options)
    paths = sorted(tmp_path.glob("data.*-of-003.zarr"))
    stores = [TrajectoryStore.open(path) for path in paths]
    assert [store.num_episodes for store in stores] == [1, 2, 2]
    merged, whole = merge(stores, tmp_path / "data.zarr", lambda done, total: None), TrajectoryStore.open(recording)
    assert merged.num_episodes == whole.num_episodes == 5
    assert [merged.digests(episode) for episode in range(5)] == [whole.digests(episode) for episode in range(5)]


def test_a_shard_goes_on_and_says_how_it_is_joined(tmp_path):
    given = ("env=push", "episodes=3", "episode_steps=4", "env.image_size=16", "workers=1", "shard=2/2")
    ended = type_in(tmp_path, "envs.collect", *given)
    assert ended.code == 0 and "data.002-of-002.zarr · 2 episodes" in ended.out
    assert ended.out.splitlines()[-1] == (
        "once all shards are there: python -m worldmodel.data merge runs/push/data.*-of-*.zarr runs/push/data.zarr"
    )
    assert "already recorded" in type_in(tmp_path, "envs.collect", *given).out
    assert_refused(type_in(tmp_path, "envs.collect", *given, "shard=1/4"), "shard 1/4 of 3 episodes has none")
