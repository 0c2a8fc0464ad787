"""Copies hold what the original holds, and only whole episodes are copied."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.store.faults import snapshot
from worldmodel.core.errors import UserError
from worldmodel.data import EpisodeWriter, Recorder, StoreError, TrajectoryStore
from worldmodel.data.store import creating
from worldmodel.data.store.layout import Layout
from worldmodel.data.store.recovery import recover
from worldmodel.data.store.rewriting import merge, pack, split
from worldmodel.data.store.verification import verify


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def contents(*stores: TrajectoryStore) -> list[bytes]:
    """What every episode is, in order."""
    found = []
    for store in stores:
        assert verify(store, quiet) == []
        assert store.records is not None
        found += [record["digests"].tobytes() for record in store.records]
    return found


@pytest.fixture
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creating, "_PACKED_BYTES", 6_500)  # two chunks of 16 pictures to a file


@pytest.mark.usefixtures("_small_files")
def test_packing_keeps_content_and_checksums(tmp_path: Path, store: TrajectoryStore) -> None:
    packed = pack(store, tmp_path / "packed.zarr", quiet)
    assert packed.identity == store.identity
    assert packed.records is not None
    assert (packed.records == store.records).all()
    assert contents(packed) == contents(store)
    files = [len(list((s.path / "data/images/camera").glob("c.*"))) for s in (store, packed)]
    assert files == [7, 4]
    for start, stop in ((0, 106), (30, 34), (15, 49), (105, 106)):
        np.testing.assert_array_equal(
            packed.read("images/camera", start, stop), store.read("images/camera", start, stop)
        )


@pytest.mark.parametrize(("proprio_size", "state_size"), [(2, 0), (0, 4), (0, 0)])
def test_what_a_robot_has_none_of_is_packed_too(tmp_path: Path, spec, proprio_size: int, state_size: int) -> None:
    bare = dataclasses.replace(spec, proprio_size=proprio_size, state_size=state_size)
    with Recorder(tmp_path / "arm.zarr", bare) as recorder:
        for _ in range(3):
            picture = np.zeros((spec.only_camera.height, spec.only_camera.height, 3), np.uint8)
            recorder.step(picture, np.zeros(proprio_size), np.zeros(len(spec.action.low)), np.zeros(state_size))
        recorder.end_episode()
    source = TrajectoryStore.open(tmp_path / "arm.zarr")
    packed = pack(source, tmp_path / "packed.zarr", quiet)
    assert contents(packed) == contents(source)


def test_an_empty_folder_is_packed_into(tmp_path: Path, store: TrajectoryStore) -> None:
    (tmp_path / "out.zarr").mkdir()
    packed = pack(store, tmp_path / "out.zarr", quiet)
    assert len(list((packed.path / "data/images/camera").glob("c.*"))) == 1


def test_a_copy_goes_to_a_place_of_its_own(tmp_path: Path, store, write_store) -> None:
    before = snapshot(store.path)
    plain = write_store(tmp_path / "plain.zarr", (20,)).path
    for act, message in (
        (lambda: pack(store, store.path, quiet), "the recording that is copied"),
        (lambda: pack(store, store.path / "inside.zarr", quiet), "the recording that is copied"),
        (lambda: merge([store], store.path / "inside.zarr", quiet), "the recording that is copied"),
        (lambda: pack(store, plain, quiet), "not packed"),
        (lambda: split(store, [tmp_path / "a", tmp_path / "." / "a"], [0.5, 0.5], 0, quiet), "named twice"),
        (lambda: split(store, [tmp_path / "a", tmp_path / "b"], [0.5, 0.5], -1, quiet), "seed -1"),
        (
            lambda: split(store, [tmp_path / "a", plain], [0.5, 0.5], 0, quiet),
            "plain.zarr holds a recording that came about",
        ),
    ):
        with pytest.raises(UserError, match=message):
            act()
    assert snapshot(store.path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.zarr", "plain.zarr"]


@pytest.mark.usefixtures("_small_files")
def test_a_packed_store_is_strict_and_recovers_too(tmp_path: Path, store: TrajectoryStore) -> None:
    packed = pack(store, tmp_path / "packed.zarr", quiet)
    (packed.path / "data/images/camera/c.1.0.0.0").unlink()  # rows 32 to 63: episodes 2 and 3
    with pytest.raises(StoreError, match=r"chunk 1 of data/images/camera is missing .*in episode 2"):
        packed.read("images/camera", 40, 41)
    assert recover(packed.path, quiet).lost == (2, 3)
    assert contents(TrajectoryStore.open(packed.path)) == [contents(store)[i] for i in (0, 1, 4)]


@pytest.mark.usefixtures("_small_files")
def test_a_packed_store_can_be_added_to(tmp_path: Path, store, write_store) -> None:
    packed = pack(store, tmp_path / "packed.zarr", quiet)
    longer = write_store(packed.path, (12, 3), first=5)
    assert contents(longer) == contents(write_store(store.path, (12, 3), first=5))


def test_splitting_divides_whole_episodes(tmp_path: Path, store: TrajectoryStore) -> None:
    outs = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    parts = split(store, outs, [0.6, 0.4], 3, quiet)
    assert [part.num_episodes for part in parts] == [3, 2]
    assert sorted(contents(*parts)) == sorted(contents(store))
    again = split(store, [tmp_path / "c.zarr", tmp_path / "d.zarr"], [0.6, 0.4], 3, quiet)
    assert contents(*again) == contents(*parts)
    assert len({part.identity for part in parts}) == 2


def test_merging_puts_one_after_the_other(tmp_path: Path, store, write_store) -> None:
    other = write_store(tmp_path / "other.zarr", (9, 4), first=7)
    merged = merge([store, other], tmp_path / "both.zarr", quiet)
    assert contents(merged) == contents(store, other)
    assert merged.episode_seeds.tolist() == [*store.episode_seeds, *other.episode_seeds]


def test_what_a_robot_lived_through_is_merged_without_states(tmp_path: Path, store, spec, make_episode) -> None:
    real = dataclasses.replace(spec, state_size=0)
    with EpisodeWriter(tmp_path / "lived.zarr", real, {}) as writer:
        episode = make_episode(3, 20)
        writer.append(dataclasses.replace(episode, state=episode.state[:, :0]))
    both = [store, TrajectoryStore.open(tmp_path / "lived.zarr")]
    for sources in (both, both[::-1]):
        with pytest.raises(UserError, match=r"state_size .* cannot be merged with states; --without-state leaves"):
            merge(sources, tmp_path / "out.zarr", quiet)
    assert not (tmp_path / "out.zarr").exists()
    merged = merge(both, tmp_path / "out.zarr", quiet, without_state=True)
    assert merged.spec == real and verify(merged, quiet) == []
    assert merged.episode(0).state.shape == (len(store.episode(0).state), 0)
    for column in ("images/camera", "action", "proprio"):
        expected = np.concatenate([source.read(column, 0, source.num_rows) for source in both])
        np.testing.assert_array_equal(merged.read(column, 0, merged.num_rows), expected)


def test_an_interrupted_copy_goes_on(tmp_path: Path, store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldmodel.data.store.rewriting._COMMIT_BYTES", 1)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise RuntimeError

    out = tmp_path / "packed.zarr"
    with pytest.raises(RuntimeError):
        pack(store, out, stop)
    assert TrajectoryStore.open(out).num_episodes == 3
    seen: list[int] = []
    assert contents(pack(store, out, lambda done, total: seen.append(done))) == contents(store)
    assert seen == [4, 5]


def test_damage_is_not_copied(tmp_path: Path, store: TrajectoryStore) -> None:
    (store.path / "data/images/camera/c.3.0.0.0").unlink()
    with pytest.raises(StoreError, match=r"data/images/camera is missing .*in episode 2: .*worldmodel\.data recover"):
        pack(store, tmp_path / "packed.zarr", quiet)


def test_a_copy_of_something_else_is_not_continued(tmp_path: Path, store, spec, make_episode: Callable) -> None:
    creating.create_store(tmp_path / "out.zarr", Layout(spec), store.recording, packed=True)
    with EpisodeWriter(tmp_path / "out.zarr", spec, store.recording) as writer:
        writer.append(make_episode(3, 20))
    with pytest.raises(UserError, match="a copy of something else: its episode 0 is not episode 0"):
        pack(store, tmp_path / "out.zarr", quiet)


def test_stores_of_different_robots_are_not_merged(tmp_path: Path, store, spec, make_episode: Callable) -> None:
    faster = dataclasses.replace(spec, control_step_s=0.05)
    with EpisodeWriter(tmp_path / "fast.zarr", faster) as writer:
        writer.append(make_episode(1, 20))
    with pytest.raises(UserError, match=r"has control_step_s 0\.1, .* has 0\.05: they cannot be merged"):
        merge([store, TrajectoryStore.open(tmp_path / "fast.zarr")], tmp_path / "out.zarr", quiet)


@pytest.mark.parametrize("fractions", [[0.5], [0.5, 0.6], [1.0, -0.1], [0.99, 0.01]])
def test_impossible_splits_are_refused(tmp_path: Path, store: TrajectoryStore, fractions: list[float]) -> None:
    outs = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    with pytest.raises(UserError, match=r"fractions|cannot be split"):
        split(store, outs, fractions, 0, quiet)
    assert not any(out.exists() for out in outs)
