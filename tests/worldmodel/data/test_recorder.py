"""What a live robot shows the recorder is in the store, whole, or not at all."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldmodel.core.errors import UserError
from worldmodel.data import EnvironmentSpec, Episode, Recorder, StoreError, TrajectoryStore, WritingStopped
from worldmodel.data.recorder import NO_SEED
from worldmodel.data.store.durable import DurableLocalStore

COLUMNS = ("images/camera", "action", "proprio", "state")


def show(recorder: Recorder, episode: Episode) -> None:
    """The steps of an episode, without its last observation."""
    for t in range(episode.num_steps):
        recorder.step(episode.images["camera"][t], episode.proprio[t], episode.action[t], episode.state[t])


def record(recorder: Recorder, episode: Episode) -> int:
    show(recorder, episode)
    return recorder.end_episode(episode.images["camera"][-1], episode.proprio[-1], episode.state[-1], seed=episode.seed)


def assert_holds(path: Path, *episodes: Episode) -> None:
    store = TrajectoryStore.open(path)
    assert store.num_episodes == len(episodes)
    for index, wanted in enumerate(episodes):
        found = store.episode(index)
        assert found.seed == wanted.seed
        for name in COLUMNS:
            np.testing.assert_array_equal(found.columns[name], wanted.columns[name])


def test_a_robot_s_episodes_are_those_of_the_writer(tmp_path: Path, spec, make_episode) -> None:
    path = tmp_path / "new" / "folder" / "data.zarr"
    episodes = [make_episode(i, n) for i, n in enumerate((20, 1, 33))]
    with Recorder(path, spec, {"driver": "somebody"}) as recorder:
        for number, episode in enumerate(episodes):
            assert record(recorder, episode) == number
            # On disk although the recorder is still open.
            assert_holds(path, *episodes[: number + 1])
    assert TrajectoryStore.open(path).recording == {"driver": "somebody"}
    with Recorder(path, spec, {"driver": "somebody"}) as recorder:
        assert recorder.num_episodes == 3
        assert record(recorder, make_episode(3, 5)) == 3
    assert_holds(path, *episodes, make_episode(3, 5))


def test_without_a_last_observation_the_action_that_nobody_saw_the_end_of_is_left_out(
    tmp_path: Path, spec, make_episode
) -> None:
    seen = make_episode(1, 6)
    with Recorder(tmp_path / "data.zarr", spec) as recorder:
        show(recorder, seen)
        recorder.end_episode(seed=seen.seed)
    action = seen.action[:6].copy()
    action[5] = 0
    wanted = Episode({"camera": seen.images["camera"][:6]}, action, seen.proprio[:6], seen.state[:6], seen.seed)
    assert_holds(tmp_path / "data.zarr", wanted)


def test_a_robot_without_simulator_gives_no_state_and_no_seed(tmp_path: Path, spec, make_episode) -> None:
    real = dataclasses.replace(spec, state_size=0, simulator="none")
    episode = make_episode(1, 4, real)
    with Recorder(tmp_path / "data.zarr", real) as recorder:
        for t in range(4):
            # Lists and float64, as robot drivers give them.
            recorder.step(
                episode.images["camera"][t], episode.proprio[t].tolist(), episode.action[t].astype(np.float64)
            )
        recorder.end_episode(episode.images["camera"][4], episode.proprio[4].tolist())
    assert_holds(tmp_path / "data.zarr", dataclasses.replace(episode, seed=NO_SEED))


def test_memory_that_the_camera_writes_again_is_copied(tmp_path: Path, spec, make_episode) -> None:
    episode = make_episode(1, 5)
    pixels, proprio, action, state = (
        np.empty_like(episode.columns[name][0]) for name in ("images/camera", "proprio", "action", "state")
    )
    with Recorder(tmp_path / "data.zarr", spec) as recorder:
        for t in range(6):
            pixels[:], proprio[:], action[:], state[:] = (
                episode.images["camera"][t],
                episode.proprio[t],
                episode.action[t],
                episode.state[t],
            )
            if t < 5:
                recorder.step(pixels, proprio, action, state)
        recorder.end_episode(pixels, proprio, state, seed=episode.seed)
    assert_holds(tmp_path / "data.zarr", episode)


@pytest.mark.parametrize(("grip", "is_one"), [(0.0, True), (0.2, True), (0.1, False), (0.199, False)])
def test_a_binary_action_has_one_of_its_two_values(tmp_path: Path, spec, make_episode, grip, is_one) -> None:
    action = dataclasses.replace(spec.action, low=(-1.0, 0.0), high=(1.0, 0.2), kinds=("continuous", "binary"))
    first = make_episode(0, 3)
    seen = (first.images["camera"][0], first.proprio[0], np.array([0.5, grip]), first.state[0])
    with Recorder(tmp_path / "data.zarr", dataclasses.replace(spec, action=action)) as recorder:
        if is_one:
            recorder.step(*seen)
            return
        with pytest.raises(UserError, match=rf"step 0: action\[1\] \(.*\) is {grip:g}, and binary: expected 0 or 0.2"):
            recorder.step(*seen)
        assert recorder.num_steps == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((8, 9, 3), np.uint8)}, r"images/camera is uint8 \[8, 9, 3\]: expected uint8 \[8, 8, 3\]"),
        ({"images": np.zeros((8, 8, 3))}, r"images/camera is float64 \[8, 8, 3\]: expected uint8 \[8, 8, 3\]"),
        ({"images": None}, r"images/camera is missing: expected uint8 \[8, 8, 3\]"),
        ({"proprio": np.zeros(4)}, r"proprio is float64 \[4\]: expected finite numbers \[3\]"),
        ({"proprio": ["a", "b", "c"]}, r"proprio is <U1 \[3\]: expected finite numbers \[3\]"),
        ({"proprio": [[1.0], [1.0, 2.0]]}, r"proprio is not an array: expected finite numbers \[3\]"),
        ({"proprio": [0.0, 1.0, np.nan]}, r"proprio\[2\] is nan: expected finite numbers \[3\] within float32"),
        ({"action": [np.inf, 0.0]}, r"action\[0\] is inf"),
        ({"action": [0.0, 1e300]}, r"action\[1\] is 1e\+300: expected finite numbers \[2\] within float32"),
        ({"action": np.ones(2, bool)}, r"action is bool \[2\]"),
        ({"action": 0.5}, r"action is float64 \[\]: expected finite numbers \[2\]"),
        ({"state": None}, r"state is missing: expected finite numbers \[5\]"),
        ({"state": np.zeros(0)}, r"state is float64 \[0\]"),
    ],
)
def test_what_does_not_fit_is_refused_and_harms_nothing(tmp_path: Path, spec, make_episode, change, message) -> None:
    first, second = make_episode(0, 7), make_episode(1, 4)
    fits: dict[str, Any] = {name.partition("/")[0]: second.columns[name][1] for name in COLUMNS}
    with Recorder(tmp_path / "data.zarr", spec) as recorder:
        record(recorder, first)
        show(recorder, second)
        with pytest.raises(UserError, match=f"^step 4: {message}") as refused:
            recorder.step(**(fits | change))
        assert "\n" not in str(refused.value)
        if "action" not in change:
            with pytest.raises(UserError):
                recorder.end_episode(**{k: v for k, v in (fits | change).items() if k != "action"})
        assert recorder.num_steps == 4
        recorder.end_episode(second.images["camera"][4], second.proprio[4], second.state[4], seed=second.seed)
    assert_holds(tmp_path / "data.zarr", first, second)


def test_an_episode_needs_an_action_whose_outcome_was_seen(tmp_path: Path, spec, make_episode) -> None:
    episode = make_episode(1, 3)
    with Recorder(tmp_path / "data.zarr", spec) as recorder:
        last = (episode.images["camera"][3], episode.proprio[3], episode.state[3])
        for given in ((), last):
            with pytest.raises(UserError, match=f"{len(given) // 3} observations: expected at least 2"):
                recorder.end_episode(*given)
        recorder.step(episode.images["camera"][0], episode.proprio[0], episode.action[0], episode.state[0])
        with pytest.raises(UserError, match="1 observations: expected at least 2"):
            recorder.end_episode()
        with pytest.raises(UserError, match="takes images and proprio, or neither"):
            recorder.end_episode(episode.images["camera"][1])
        assert recorder.num_steps == 1
        recorder.discard_episode()
    assert TrajectoryStore.open(tmp_path / "data.zarr").num_episodes == 0


def test_a_discarded_episode_leaves_nothing(tmp_path: Path, spec, make_episode) -> None:
    with Recorder(tmp_path / "data.zarr", spec) as recorder:
        show(recorder, make_episode(5, 9))
        recorder.discard_episode()
        assert recorder.num_steps == 0
        record(recorder, make_episode(1, 4))
    assert_holds(tmp_path / "data.zarr", make_episode(1, 4))


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_an_unfinished_episode_is_dropped_and_said_to_be(
    tmp_path: Path, spec, make_episode, caplog: pytest.LogCaptureFixture, error
) -> None:
    path = tmp_path / "data.zarr"
    try:
        with Recorder(path, spec) as recorder:
            record(recorder, make_episode(1, 4))
            show(recorder, make_episode(2, 12))
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    assert_holds(path, make_episode(1, 4))
    assert f"dropped: the unfinished episode of 12 steps; {path} has 1 episodes" in caplog.text
    assert not path.with_name("data.zarr.lock").exists()


def test_a_finished_recording_says_nothing(
    tmp_path: Path, spec, make_episode, caplog: pytest.LogCaptureFixture
) -> None:
    with Recorder(tmp_path / "data.zarr", spec) as recorder:
        record(recorder, make_episode(1, 4))
    assert caplog.text == ""


def test_it_works_in_its_context_only(tmp_path: Path, spec, make_episode) -> None:
    recorder = Recorder(tmp_path / "data.zarr", spec)
    with pytest.raises(UserError, match="step of a recorder that is not open"):
        show(recorder, make_episode(1, 4))
    with recorder:
        record(recorder, make_episode(1, 4))
    with pytest.raises(UserError, match="end_episode of a recorder that is not open"):
        recorder.end_episode()


@pytest.mark.parametrize("seed", ["x", 1.5, True, 2**63])
def test_a_seed_that_is_none_is_refused(tmp_path: Path, spec, make_episode, seed: object) -> None:
    with Recorder(tmp_path / "a.zarr", spec) as recorder:
        episode = make_episode(0, 2)
        for row in range(2):
            recorder.step(episode.images["camera"][row], episode.proprio[row], episode.action[row], episode.state[row])
        with pytest.raises(UserError, match="expected a whole number of 64 bits"):
            recorder.end_episode(seed=seed)
        assert recorder.end_episode(seed=np.int64(3)) == 0


@pytest.mark.parametrize("recording", [{"a": float("nan")}, {"a": np.float32(1)}, {"a": {1, 2}}])
def test_how_it_was_recorded_is_json(tmp_path: Path, spec, recording: dict) -> None:
    with pytest.raises(UserError, match="expected JSON values"):
        Recorder(tmp_path / "a.zarr", spec, recording)
    assert not list(tmp_path.iterdir())


def test_how_it_was_recorded_does_not_hide_what_was_recorded(tmp_path: Path, spec) -> None:
    with Recorder(tmp_path / "a.zarr", spec, {"env": "mine", "pair": (1, 2)}):
        pass
    with Recorder(tmp_path / "a.zarr", spec, {"env": "mine", "pair": [1, 2]}):
        pass
    other = dataclasses.replace(spec, env="another")
    with (
        pytest.raises(UserError, match=f"was recorded with env {spec.env}, this run has another"),
        Recorder(tmp_path / "a.zarr", other, {"env": "mine", "pair": [1, 2]}),
    ):
        pass


def test_a_recorder_is_opened_once(tmp_path: Path, spec) -> None:
    with Recorder(tmp_path / "a.zarr", spec) as recorder:
        with pytest.raises(UserError, match="is open already"):
            recorder.__enter__()
        assert recorder.num_episodes == 0


def test_a_second_recorder_is_told_who_the_first_is(tmp_path: Path, spec) -> None:
    message = f"being written by process {os.getpid()} on {socket.gethostname()} since"
    with Recorder(tmp_path / "data.zarr", spec), pytest.raises(UserError, match=message):
        Recorder(tmp_path / "data.zarr", spec).__enter__()


@pytest.mark.parametrize("path", ["", ".", "..", "/", "runs/.."])
def test_a_path_that_ends_in_no_name_is_refused(tmp_path: Path, spec, path: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="does not name a folder: expected one, for example"):
        Recorder(path, spec)
    assert list(tmp_path.iterdir()) == []


def test_something_else_at_the_path_is_refused(tmp_path: Path, spec: EnvironmentSpec) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(StoreError, match="not a trajectory store"):
        Recorder(tmp_path, spec).__enter__()
    assert not tmp_path.with_name(tmp_path.name + ".lock").exists()


def at_every_write(monkeypatch: pytest.MonkeyPatch, happens: Callable[[str], None]) -> None:
    whole = DurableLocalStore._write

    def write(self, key, value):
        happens(key)
        whole(self, key, value)

    monkeypatch.setattr(DurableLocalStore, "_write", write)


def test_ctrl_c_while_an_episode_is_written_waits_until_it_is(tmp_path: Path, spec, make_episode, monkeypatch) -> None:
    path, pressed = tmp_path / "data.zarr", []

    def press(key: str) -> None:
        if not pressed:
            pressed.append(key)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with Recorder(path, spec) as recorder:
        record(recorder, make_episode(0, 4))
        at_every_write(monkeypatch, press)
        with pytest.raises(KeyboardInterrupt):
            record(recorder, make_episode(1, 6))
        assert (recorder.num_episodes, recorder.num_steps) == (2, 0)
        record(recorder, make_episode(2, 5))
    assert pressed
    assert signal.getsignal(signal.SIGINT) is before
    assert_holds(path, *(make_episode(i, n) for i, n in enumerate((4, 6, 5))))


def test_ctrl_c_while_the_store_is_made_leaves_no_lock(tmp_path: Path, spec, make_episode, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        at_every_write(patch, lambda key: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            Recorder(tmp_path / "data.zarr", spec).__enter__()
    with Recorder(tmp_path / "data.zarr", spec) as recorder:
        record(recorder, make_episode(1, 6))
    assert_holds(tmp_path / "data.zarr", make_episode(1, 6))


def test_after_a_full_disk_the_same_episode_can_be_ended_again(tmp_path: Path, spec, make_episode, monkeypatch) -> None:
    path, full = tmp_path / "data.zarr", [True]

    def refuse(key: str) -> None:
        if full[0] and key == "meta/episode_seed/c.0":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    episode = make_episode(1, 6)
    with Recorder(path, spec) as recorder:
        record(recorder, make_episode(0, 4))
        at_every_write(monkeypatch, refuse)
        with pytest.raises(WritingStopped, match=rf"{path} cannot be written to \(No space left on device\)"):
            record(recorder, episode)
        assert (recorder.num_episodes, recorder.num_steps) == (1, 6)
        assert_holds(path, make_episode(0, 4))
        full[0] = False
        recorder.end_episode(episode.images["camera"][-1], episode.proprio[-1], episode.state[-1], seed=episode.seed)
    assert_holds(path, make_episode(0, 4), episode)
