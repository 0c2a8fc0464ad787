"""Several cameras of their own sizes, rewards and instructions, from the recorder to the frames that training reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from worldmodel.core.errors import UserError
from worldmodel.core.ranks import Rank
from worldmodel.core.spec import ActionSpec, CameraSpec, EnvironmentSpec
from worldmodel.data import (
    ClipSampler,
    Episode,
    EpisodeWriter,
    FrameClips,
    Recorder,
    StoreError,
    TrajectoryStore,
    load_camera_frames,
    load_frames,
)
from worldmodel.data.__main__ import main
from worldmodel.data.store.recovery import recover
from worldmodel.data.store.rewriting import merge, pack, split
from worldmodel.data.store.verification import verify

ARM = EnvironmentSpec(
    env="arm",
    cameras=(CameraSpec("top", 6, 10), CameraSpec("wrist", 8, 8)),
    control_step_s=0.1,
    action=ActionSpec(
        (-3.0,) * 6 + (0.0,),
        (3.0,) * 6 + (1.0,),
        ("rad",) * 6 + ("",),
        (*(f"joint_{i}" for i in range(6)), "grip"),
        ("hold",) * 7,
        ("continuous",) * 6 + ("binary",),
    ),
    proprio_size=7,
    state_size=0,
    simulator="none",
)
TOLD = ("pick up the cup", "", "stelle die Tasse auf den Tisch (größer)", "x" * 512)


def make_arm_episode(index: int, steps: int = 12, spec: EnvironmentSpec = ARM) -> Episode:
    rng, rows = np.random.default_rng(index), steps + 1
    low, high = spec.action.bounds
    action = rng.uniform(low, high, (rows, 7)).astype(np.float32)
    action[:, 6] = action[:, 6].round()  # the grip is binary
    reward = rng.standard_normal(rows).astype(np.float32)
    action[-1], reward[-1] = 0, 0
    images = {c.name: rng.integers(0, 256, (rows, *c.shape), dtype=np.uint8) for c in spec.cameras}
    proprio = rng.standard_normal((rows, 7)).astype(np.float32)
    return Episode(images, action, proprio, np.zeros((rows, 0)), index, reward, TOLD[index % len(TOLD)])


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def assert_same(found: Episode, wanted: Episode) -> None:
    assert (found.seed, found.instruction) == (wanted.seed, wanted.instruction)
    assert list(found.columns) == list(wanted.columns)
    for name, values in wanted.columns.items():
        assert found.columns[name].dtype == values.dtype
        np.testing.assert_array_equal(found.columns[name], values)


def assert_holds(store: TrajectoryStore, episodes: list[int]) -> None:
    assert verify(store, quiet) == []
    assert store.num_episodes == len(episodes)
    for position, index in enumerate(episodes):
        assert_same(store.episode(position), make_arm_episode(index))


@pytest.fixture
def arm(tmp_path: Path) -> TrajectoryStore:
    with Recorder(tmp_path / "arm.zarr", ARM, reward=True) as recorder:
        for index in range(4):
            episode = make_arm_episode(index)
            assert episode.reward is not None
            for t in range(episode.num_steps):
                images = {camera: frames[t] for camera, frames in episode.images.items()}
                recorder.step(images, episode.proprio[t], episode.action[t], reward=episode.reward[t])
            last = {camera: frames[-1] for camera, frames in episode.images.items()}
            recorder.end_episode(last, episode.proprio[-1], seed=index, instruction=episode.instruction)
    return TrajectoryStore.open(tmp_path / "arm.zarr")


def test_what_was_shown_is_in_the_store(arm: TrajectoryStore) -> None:
    assert arm.spec == ARM
    assert arm.layout.columns == ("images/top", "images/wrist", "action", "proprio", "state", "reward")
    assert_holds(arm, [0, 1, 2, 3])
    assert [arm.instruction(i) for i in range(4)] == list(TOLD)


def test_it_is_added_to_packed_split_and_merged(arm: TrajectoryStore, tmp_path: Path) -> None:
    with EpisodeWriter(arm.path, ARM, reward=True) as writer:
        writer.append(make_arm_episode(4))
    longer = TrajectoryStore.open(arm.path)
    assert_holds(longer, [0, 1, 2, 3, 4])
    assert_holds(pack(longer, tmp_path / "packed.zarr", quiet), [0, 1, 2, 3, 4])
    parts = split(longer, [tmp_path / "a.zarr", tmp_path / "b.zarr"], [0.4, 0.6], 0, quiet)
    merged = merge(parts, tmp_path / "both.zarr", quiet)
    assert_holds(merged, merged.episode_seeds.tolist())


@pytest.mark.parametrize("name", ["images/wrist", "reward"])
def test_damage_of_any_column_is_found_and_set_aside(arm: TrajectoryStore, name: str) -> None:
    (chunk,) = (arm.path / "data" / name).glob("c.0*")
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    found = verify(TrajectoryStore.open(arm.path), quiet)
    # The first chunk of 16 pictures has the first episode of 13 and a part of the second.
    damaged = [0, 1] if name == "images/wrist" else [0, 1, 2, 3]
    assert [(d.episode, d.column) for d in found] == [(i, name) for i in damaged]
    done = recover(arm.path, quiet)
    assert done.lost == tuple(damaged)
    assert_holds(TrajectoryStore.open(arm.path), [i for i in range(4) if i not in damaged])


def test_a_lost_instruction_is_not_taken_for_none(arm: TrajectoryStore) -> None:
    (arm.path / "meta/episode_instruction/c.0.0").unlink()
    damaged = TrajectoryStore.open(arm.path)
    with pytest.raises(StoreError, match=r"chunk 0 of meta/episode_instruction is missing .*recover"):
        damaged.episode(0)
    assert [(d.episode, d.column) for d in verify(damaged, quiet)] == [(i, "instruction") for i in range(4)]
    assert recover(arm.path, quiet).lost == (0, 2, 3)  # the second was told nothing, as its checksum shows
    assert_holds(TrajectoryStore.open(arm.path), [1])


def test_instructions_that_were_exchanged_are_noticed(arm: TrajectoryStore, tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "other.zarr", ARM, reward=True) as writer:
        for index in range(4):
            writer.append(dataclasses.replace(make_arm_episode(index), instruction="something else"))
    chunk = "meta/episode_instruction/c.0.0"
    (arm.path / chunk).write_bytes((tmp_path / "other.zarr" / chunk).read_bytes())
    with pytest.raises(StoreError, match="instruction of episode 2 is not what was recorded"):
        TrajectoryStore.open(arm.path).instruction(2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ä" * 257, "instruction has 514 bytes: expected text of at most 512 bytes of UTF-8"),
        ("a\0b", "instruction has a NUL character"),
        ("\ud800", "instruction has a character that UTF-8 does not know"),
        (None, "instruction is NoneType: expected text"),
    ],
)
def test_an_instruction_is_short_text(tmp_path: Path, text: object, message: str) -> None:
    episode = make_arm_episode(0, 2)
    with EpisodeWriter(tmp_path / "a.zarr", ARM, reward=True) as writer, pytest.raises(UserError, match=message):
        writer.append(dataclasses.replace(episode, instruction=text))


def test_rewards_are_there_in_every_step_or_in_none(tmp_path: Path, arm: TrajectoryStore) -> None:
    episode = make_arm_episode(0)
    assert episode.reward is not None
    shown = ({camera: frames[0] for camera, frames in episode.images.items()}, episode.proprio[0], episode.action[0])
    with Recorder(tmp_path / "none.zarr", ARM) as recorder:
        with pytest.raises(UserError, match="reward is not recorded here"):
            recorder.step(*shown, reward=1.0)
        recorder.step(*shown)
        recorder.end_episode(shown[0], shown[1])
    assert TrajectoryStore.open(tmp_path / "none.zarr").episode(0).reward is None
    with Recorder(arm.path, ARM, reward=True) as recorder:
        for reward, message in ((None, "is missing: expected a finite number"), (np.nan, "is nan"), ([1.0], r"\[1\]")):
            with pytest.raises(UserError, match=f"^step 0: reward .*{message}"):
                recorder.step(*shown, reward=reward)
    with pytest.raises(UserError, match="was recorded with reward True, this run has False"):
        Recorder(arm.path, ARM).__enter__()
    with pytest.raises(UserError, match=r"has reward True, .* has False: they cannot be merged"):
        merge([arm, TrajectoryStore.open(tmp_path / "none.zarr")], tmp_path / "both.zarr", quiet)
    reward = np.ones_like(episode.reward)
    for given, what in ((None, "has the columns .*, expected .*reward"), (reward, "last reward other than zero")):
        with EpisodeWriter(arm.path, ARM, reward=True) as writer, pytest.raises(UserError, match=what):
            writer.append(dataclasses.replace(episode, reward=given))


def test_pictures_come_by_camera(tmp_path: Path) -> None:
    episode = make_arm_episode(0)
    images = {camera: frames[0] for camera, frames in episode.images.items()}
    rest = (episode.proprio[0], episode.action[0])
    with Recorder(tmp_path / "a.zarr", ARM) as recorder:
        for given, message in (
            (images["top"], "^step 0: images are not by camera: expected top, wrist$"),
            ({"top": images["top"]}, "^step 0: images are of the cameras top: expected top, wrist$"),
            (images | {"left": images["top"]}, "cameras top, wrist, left: expected top, wrist"),
            (images | {"top": images["wrist"]}, r"images/top is uint8 \[8, 8, 3\]: expected uint8 \[6, 10, 3\]"),
        ):
            with pytest.raises(UserError, match=message):
                recorder.step(given, *rest)
        recorder.step(dict(reversed(images.items())), *rest)  # in any order
        recorder.end_episode(images, rest[0])
    np.testing.assert_array_equal(TrajectoryStore.open(tmp_path / "a.zarr").episode(0).images["top"][0], images["top"])


def test_an_action_outside_its_bounds_is_refused(tmp_path: Path) -> None:
    episode = make_arm_episode(0)
    images, proprio = {camera: frames[0] for camera, frames in episode.images.items()}, episode.proprio[0]
    with Recorder(tmp_path / "a.zarr", ARM) as recorder:
        for dimension, value, message in (
            (
                1,
                3.1,
                r"^step 0: action\[1\] \(joint_1\) is 3.1 rad: expected -3 to 3, as the spec of the recording says$",
            ),
            (6, -0.5, r"^step 0: action\[6\] \(grip\) is -0.5: expected 0 to 1, as"),
        ):
            action = np.zeros(7)
            action[dimension] = value
            with pytest.raises(UserError, match=message):
                recorder.step(images, proprio, action)
        edge = np.nextafter(np.float32(3), np.float32(4))  # what double precision may round to
        recorder.step(images, proprio, [edge, -edge, 0, 0, 0, 0, 1])
        assert recorder.num_steps == 1


def test_frames_of_every_camera_are_in_a_cache_of_its_own(arm: TrajectoryStore, tmp_path: Path) -> None:
    frames = load_camera_frames(arm, tmp_path / "run" / "frames.npy")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["frames.top.npy", "frames.wrist.npy"]
    for camera, found in frames.items():
        np.testing.assert_array_equal(found, arm.column(f"images/{camera}"))
    with pytest.raises(UserError, match="has the cameras top, wrist"):
        load_frames(arm, tmp_path / "frames.npy")
    with pytest.raises(UserError, match=r"unknown camera 'tpo'.*did you mean top"):
        load_frames(arm, tmp_path / "frames.npy", camera="tpo")
    # The cache of one camera is not that of another, also where their sizes are the same.
    twins = dataclasses.replace(ARM, cameras=(CameraSpec("left", 6, 6), CameraSpec("right", 6, 6)))
    with EpisodeWriter(tmp_path / "twins.zarr", twins, reward=True) as writer:
        writer.append(make_arm_episode(0, spec=twins))
    store = TrajectoryStore.open(tmp_path / "twins.zarr")
    load_frames(store, tmp_path / "frames.npy", camera="left")
    right = load_frames(store, tmp_path / "frames.npy", camera="right")
    np.testing.assert_array_equal(right, store.column("images/right"))


def test_clips_take_turns_among_cameras_and_are_a_function_of_the_step(arm: TrajectoryStore, tmp_path: Path) -> None:
    frames = load_camera_frames(arm, tmp_path / "frames.npy")
    sampler = ClipSampler(arm.episode_ends, 4, (1, 2), seed=3)
    clips = FrameClips(frames, sampler, batch_size=5)
    assert [clips(step).shape for step in range(3)] == [(5, 4, 6, 10, 3), (5, 4, 8, 8, 3), (5, 4, 6, 10, 3)]
    np.testing.assert_array_equal(clips(7), frames["wrist"][sampler.sample(7, 5).rows])
    np.testing.assert_array_equal(clips(7), FrameClips(frames, sampler, batch_size=5)(7))
    for number in range(5):
        np.testing.assert_array_equal(FrameClips(frames, sampler, 5, Rank(number, 5))(7), clips(7)[number : number + 1])
    np.testing.assert_array_equal(FrameClips({"top": frames["top"]}, sampler, 5)(1), clips.of("top", 1))


def test_several_cameras_are_seen_side_by_side(arm: TrajectoryStore, tmp_path: Path, capsys) -> None:
    assert main(["view", str(arm.path), "--out", str(tmp_path / "episode.mp4")]) == 0
    assert "13 frames" in capsys.readouterr().out
    assert main(["inspect", str(arm.path), "--sheet", str(tmp_path / "sheet.png")]) == 0
    told = capsys.readouterr().out
    for column in ("images/top", "images/wrist", "reward", "[52, 6, 10, 3]"):
        assert column in told
