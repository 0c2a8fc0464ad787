"""What a robot lived through is data for the next training, and its last minute is there after a fault."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planning.faults import FaultKind
from planning.flight import FlightConfig
from planning.gate import GateConfig
from planning.recording import BackgroundWriter, Lived, LiveRecording
from planning.robot import RobotController
from tests.commands import refuse_to_write, type_in
from tests.planning.test_robot import FAST, FELT, GOAL, ROOT, SEEN, SPEC, draw
from tests.planning.toy_model import save_model
from tests.worldmodel.commands import TOY
from worldmodel.core.errors import UserError
from worldmodel.data import TrajectoryStore, WritingStopped


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    frames = np.stack([draw(rng.uniform(0, 26, 2)) for _ in range(24)])
    return save_model(tmp_path_factory.mktemp("model"), SPEC, {"camera": frames})


def make(checkpoint: Path, **options: Any) -> RobotController:
    return RobotController(checkpoint, GOAL, FAST, device="cpu", precision="fp32", threads=1, **options)


def walk(controller: RobotController, steps: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What was seen, felt and commanded in a world that does what it is told."""
    place, lived = np.array([12.0, 8.0]), []
    for _ in range(steps):
        frame, felt = draw(place), place.astype(np.float32)
        action = controller.act(frame, felt).action
        lived.append((frame, felt, action))
        place = np.clip(place + action, 0, 26)
    return lived


def assert_episode(store: TrajectoryStore, number: int, lived: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """The last action is left out: nobody saw what came of it."""
    episode = store.episode(number)
    np.testing.assert_array_equal(episode.images["camera"], np.stack([frame for frame, _, _ in lived]))
    np.testing.assert_array_equal(episode.proprio, np.stack([felt for _, felt, _ in lived]))
    np.testing.assert_array_equal(episode.action[:-1], np.stack([action for _, _, action in lived[:-1]]))
    assert not episode.action[-1].any()


# --- recording -------------------------------------------------------------------------------------------------------


def test_what_was_lived_through_is_recorded(checkpoint: Path, tmp_path: Path) -> None:
    with make(checkpoint, record=tmp_path / "data.zarr") as controller:
        first = walk(controller, 4)
        controller.toward(GOAL)
        walk(controller, 1)  # no action whose outcome was seen: no episode
        controller.toward(GOAL)
        second = walk(controller, 3)
    store = TrajectoryStore.open(tmp_path / "data.zarr")
    assert store.num_episodes == 2 and store.spec == SPEC
    assert_episode(store, 0, first)
    assert_episode(store, 1, second)
    with make(checkpoint, record=tmp_path / "data.zarr") as controller:  # the next day
        third = walk(controller, 2)
    assert_episode(TrajectoryStore.open(tmp_path / "data.zarr"), 2, third)


def test_recording_changes_no_action(checkpoint: Path, tmp_path: Path) -> None:
    with make(checkpoint, record=tmp_path / "data.zarr", flight=tmp_path / "flight") as controller:
        recorded = [action.tolist() for _, _, action in walk(controller, 3)]
    assert recorded == [action.tolist() for _, _, action in walk(make(checkpoint), 3)]


def test_a_robot_trains_on_what_it_lived_through(checkpoint: Path, tmp_path: Path) -> None:
    with make(checkpoint, record=tmp_path / "lived.zarr") as controller:
        for _ in range(4):
            walk(controller, 17)
            controller.toward(GOAL)
    ended = type_in(
        tmp_path, "worldmodel.train", *TOY["worldmodel.train"], "data=lived.zarr", "encoder_from=random", "device=cpu"
    )
    assert ended.code == 0, ended
    with make(tmp_path / "runs" / "toy" / "model") as controller:
        assert np.isfinite(controller.act(SEEN, FELT).action).all()


def test_what_was_done_instead_is_recorded(checkpoint: Path, tmp_path: Path) -> None:
    """A person or a driver may have overruled a command, within the bounds or beyond them."""
    with make(checkpoint, record=tmp_path / "data.zarr") as controller:
        controller.act(SEEN, FELT)
        controller.act(SEEN, FELT, command=[1.5, -2.5])
        controller.act(SEEN, FELT)
        controller.act(SEEN, FELT, command=[7.0, 0.0])  # the recording knows no such action: an episode ends
        controller.act(SEEN, FELT)
    store = TrajectoryStore.open(tmp_path / "data.zarr")
    assert [len(store.episode(i).action) for i in range(store.num_episodes)] == [3, 2]
    assert store.episode(0).action[0].tolist() == [1.5, -2.5]


def test_a_stop_ends_the_episode_and_frozen_frames_are_no_data(checkpoint: Path, tmp_path: Path) -> None:
    with make(checkpoint, record=tmp_path / "data.zarr", gate=GateConfig(frozen_after=3)) as controller:
        lived = walk(controller, 4)
        frozen = draw(np.array([1.0, 1.0]))
        kinds = [controller.act(frozen, FELT).fault for _ in range(4)]
        assert [fault is None for fault in kinds] == [True, True, False, False]
        controller.resume()
        again = walk(controller, 2)
    store = TrajectoryStore.open(tmp_path / "data.zarr")
    assert store.num_episodes == 2
    # The first of the frozen frames was new when it came.
    np.testing.assert_array_equal(store.episode(0).images["camera"], np.stack([*(f for f, _, _ in lived), frozen]))
    assert_episode(store, 1, again)


def test_a_long_episode_goes_on_in_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planning.recording.MOST_EPISODE_S", 0.5)  # five steps
    recording = LiveRecording(tmp_path / "data.zarr", SPEC)
    for step in range(12):
        recording.add(Lived({"camera": SEEN}, np.full(2, step, np.float32), np.full(2, step / 4, np.float32)))
    recording.close()
    store = TrajectoryStore.open(tmp_path / "data.zarr")
    felt = [store.episode(i).proprio[:, 0].tolist() for i in range(store.num_episodes)]
    assert felt == [[0, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10], [10, 11]]  # no action is lost between them


def test_a_place_that_cannot_be_used_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((UserError, WritingStopped), match="file"):
        make(checkpoint, record=tmp_path / "file" / "data.zarr")
    with pytest.raises(UserError, match=r"flight '.*file' cannot be written to"):
        make(checkpoint, flight=tmp_path / "file")
    with (
        make(checkpoint, record=tmp_path / "data.zarr"),
        pytest.raises(UserError, match=r"data\.zarr is being written by process"),
    ):
        make(checkpoint, record=tmp_path / "data.zarr")
    make(checkpoint, record=tmp_path / "data.zarr").close()
    with pytest.raises(UserError, match=r"was recorded with recorded_by planning\.robot, this run has planning.flight"):
        BackgroundWriter(tmp_path / "data.zarr", SPEC, "planning.flight", 10)


def test_a_full_disk_stops_no_robot_and_is_told_at_the_end(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = make(checkpoint, record=tmp_path / "data.zarr")
    walk(controller, 3)
    with monkeypatch.context() as full:
        refuse_to_write(full, "c.")
        controller.toward(GOAL)
        assert len(walk(controller, 3)) == 3
        with pytest.raises(WritingStopped, match="cannot be written to"):
            controller.close()
    controller.close()  # doing it twice is safe, and so is acting without a recording
    assert controller.act(SEEN, FELT).fault is None
    assert TrajectoryStore.open(tmp_path / "data.zarr").num_episodes == 0


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_an_interruption_leaves_nothing_half_written(checkpoint: Path, tmp_path: Path, number: int) -> None:
    lines = """
import sys
import numpy as np
from planning.gate import GateConfig
from planning.robot import RobotController
options = {"horizon": 3, "options.samples": 8, "options.elites": 2}
goal, rng = np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0)
gate = GateConfig(frozen_after=2)
with RobotController(sys.argv[1], goal, options, "cpu", threads=1, gate=gate, record="data.zarr", flight="f") as robot:
    for step in range(100_000):
        robot.act(rng.integers(0, 256, goal.shape, np.uint8) if step % 6 else goal, [0, 0])
        robot.act(rng.integers(0, 256, goal.shape, np.uint8) if step % 6 else goal, [0, 0])
        robot.resume()
        if step == 20:
            print("ready", flush=True)
"""
    line = [sys.executable, "-c", lines, str(checkpoint)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as robot:
        assert robot.stdout is not None
        assert robot.stdout.readline() == "ready\n"
        time.sleep(0.1)
        robot.send_signal(number)
        robot.wait(30)
    for store in (tmp_path / "data.zarr", tmp_path / "f" / "data.zarr"):
        opened = TrajectoryStore.open(store)
        for episode in range(opened.num_episodes):
            assert len(opened.episode(episode).action) >= 2
    for path in (tmp_path / "f").glob("flight-*.npz"):
        with np.load(path, allow_pickle=False) as written:
            assert len(written["step"]) >= 1
    if number == signal.SIGINT:
        assert TrajectoryStore.open(tmp_path / "data.zarr").num_episodes > 0
    make(checkpoint, record=tmp_path / "data.zarr", flight=tmp_path / "f").close()  # and it is gone on with


# --- flight recorder -------------------------------------------------------------------------------------------------


def test_the_last_steps_before_a_stop_are_kept(checkpoint: Path, tmp_path: Path) -> None:
    flight = FlightConfig(tmp_path / "flight", seconds=0.5)  # five steps
    with make(checkpoint, gate=GateConfig(), flight=flight) as controller:
        lived = walk(controller, 8)
        stopped = controller.act(SEEN[:3], FELT)
        assert stopped.fault is not None
    store = TrajectoryStore.open(tmp_path / "flight" / "data.zarr")
    assert store.num_episodes == 1
    episode = store.episode(0)
    np.testing.assert_array_equal(episode.images["camera"][:4], np.stack([frame for frame, _, _ in lived[-4:]]))
    with np.load(tmp_path / "flight" / "flight-0000.npz", allow_pickle=False) as written:
        assert int(written["episode"]) == 0
        assert written["step"].tolist() == [4, 5, 6, 7, 8]
        assert written["seen"].tolist() == [True] * 4 + [False]
        np.testing.assert_array_equal(written["action"][:4], np.stack([action for _, _, action in lived[-4:]]))
        assert written["fault"].tolist() == [""] * 4 + [FaultKind.OBSERVATION]
        assert "image of camera" in str(written["fault_detail"][-1])
        assert written["plan"].shape == (5, 3, 2) and np.isfinite(written["plan"][:4]).all()
        np.testing.assert_array_equal(written["plan"][:4, 0], written["action"][:4])
        assert np.isfinite(written["distance"]).tolist() == [True] * 4 + [False]
        latents = [name for name in written if name.startswith("latent.")]
        assert latents and all(len(written[name]) == 5 for name in latents)


def test_every_fault_has_its_flight(checkpoint: Path, tmp_path: Path) -> None:
    with make(checkpoint, gate=GateConfig(), flight=tmp_path) as controller:
        controller.act(SEEN, FELT)
        controller.act(SEEN[:3], FELT)
        controller.resume()
        controller.act(SEEN, FELT)
        assert controller.dump() == tmp_path / "flight-0001.npz"
        controller.act(SEEN, FELT)
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["flight-0000.npz", "flight-0001.npz"]
    with make(checkpoint, gate=GateConfig(deadline_s=1e-9), flight=tmp_path) as controller:
        assert controller.act(SEEN, FELT).late  # no stop, but a fault: it is written at the end
    with np.load(tmp_path / "flight-0002.npz", allow_pickle=False) as written:
        assert written["fault"].tolist() == ["late"] and int(written["episode"]) == -1
    with pytest.raises(RuntimeError), make(checkpoint, flight=tmp_path) as controller:  # without a gate, too
        controller.act(SEEN, FELT)
        raise RuntimeError("the driver has failed")
    assert (tmp_path / "flight-0003.npz").exists()


def test_a_flight_recorder_does_not_grow(checkpoint: Path, tmp_path: Path) -> None:
    with make(checkpoint, flight=FlightConfig(tmp_path, seconds=0.3)) as controller:
        walk(controller, 7)
        assert controller._logbook._flight is not None
        assert len(controller._logbook._flight) == 3
    assert list(tmp_path.glob("*.npz")) == []


def test_what_has_no_flight_recorder_says_so(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="there is no flight recorder"):
        make(checkpoint).dump()
    with pytest.raises(UserError, match="seconds of the flight recorder is 0"):
        FlightConfig("anywhere", seconds=0)
