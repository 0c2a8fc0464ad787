"""Clips from workers: a function of seed, step and rank, whatever happens to files and processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.worldmodel.data.videos.making import number_of, write_video
from tests.worldmodel.toy import TWO_CAMERAS, write_store
from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.ranks import Rank
from worldmodel.data.clips import ClipConfig, ClipSampler, FrameClips
from worldmodel.data.frames import load_camera_frames
from worldmodel.data.store.reader import StoreError, TrajectoryStore
from worldmodel.data.videos import workers as workers_module
from worldmodel.data.videos.catalogue import Catalogue, survey
from worldmodel.data.videos.clips import VideoConfig, WorkerClips
from worldmodel.data.videos.draws import Mix, Request, StoreRows, StoreSource, VideoSource
from worldmodel.data.videos.workers import WorkerFailed, Workers

WHOLE = {"crop_scale": [1.0, 1.0], "crop_ratio": [0.2, 5.0]}
CLIPS = ClipConfig(frames=4, strides=(1, 2))


@pytest.fixture(scope="module")
def catalogue(folder: Path, workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    found = survey(folder, None, tmp_path_factory.mktemp("catalogue") / "c.sqlite", workers)
    yield found
    found.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return write_store(tmp_path_factory.mktemp("store") / "data.zarr", 6, TWO_CAMERAS)


def mix(catalogue: Catalogue, clips: ClipConfig = CLIPS, **changes: Any) -> Mix:
    values: dict[str, Any] = {
        "sources": [VideoSource(catalogue, clips)],
        "weights": [1.0],
        "shape": (clips.frames, 16, 24),
        "augmentation": {"crop_scale": [0.3, 1.0], "hue": 0.1},
        "batch_size": 3,
        "seed": 5,
    }
    return Mix(**{**values, **changes})


def read(draws: Any, workers: Workers, steps: range, ahead: int = 2) -> list[NDArray[np.uint8]]:
    clips = WorkerClips(draws, workers, ahead, steps.stop)
    try:
        return [clips(step) for step in steps]
    finally:
        clips.finish()


def test_clips_depend_on_seed_and_step_alone_and_ranks_share_them(catalogue: Catalogue, workers: Workers) -> None:
    first = read(mix(catalogue), workers, range(4))
    resumed = read(mix(catalogue), workers, range(2, 4), ahead=5)
    assert all((a == b).all() for a, b in zip(first[2:], resumed, strict=True))
    assert first[0].shape == (3, 4, 16, 24, 3) and first[0].dtype == np.uint8
    assert (read(mix(catalogue, seed=6), workers, range(1))[0] != first[0]).any()
    for number in range(3):  # every rank has one of the three clips
        (share,) = read(mix(catalogue, rank=Rank(number, 3)), workers, range(1))
        assert (share == first[0][number : number + 1]).all()


def test_steps_may_be_asked_for_in_any_order(catalogue: Catalogue, workers: Workers) -> None:
    clips = WorkerClips(mix(catalogue), workers, 2, 10)
    there, back = clips(5), clips(0)
    assert (clips(5) == there).all() and (clips(0) == back).all()
    clips.finish()


def test_long_videos_have_more_windows_and_every_place_is_drawn(catalogue: Catalogue) -> None:
    source = VideoSource(catalogue, CLIPS)  # the longest clip takes 7 frames
    assert source.windows == 28 // 7 + 24 // 7 + 96 // 7 + 24 // 7 + 1
    rng = np.random.default_rng(0)
    drawn = [source.draw(rng) for _ in range(3000)]
    long = [d for d in drawn if d["path"].endswith("long.mp4")]
    assert len(long) / len(drawn) == pytest.approx(13 / source.windows, abs=0.03)
    starts = {round(d["times"][0] * 24 - 0.5) for d in long}
    assert min(starts) == 0 and max(starts) == 92  # four frames of the shorter stride
    for request in drawn:
        steps = np.diff(request["times"])
        assert (steps >= 0).all()
        if not request["path"].endswith("short.gif"):
            assert np.ptp(steps) < 1e-5


def test_strides_in_seconds_resample_every_rate(catalogue: Catalogue) -> None:
    rng, source = np.random.default_rng(0), VideoSource(catalogue, ClipConfig(4, strides_s=(0.25,)))
    drawn = [source.draw(rng) for _ in range(300)]
    assert len({d["path"] for d in drawn}) == 5
    for request in drawn:
        if not request["path"].endswith("short.gif"):
            assert np.allclose(np.diff(request["times"]), 0.25, atol=1e-5)


def test_a_clip_shows_the_frames_of_its_stride(catalogue: Catalogue, workers: Workers, folder: Path) -> None:
    """The brightness of a frame tells its number, and the noise on it is always the same."""
    draws = mix(catalogue, ClipConfig(4, (3,)), shape=(4, 64, 48), augmentation=WHOLE, batch_size=24)
    (clips,) = read(draws, workers, range(1), ahead=1)
    requests = [next(draws.requests(0, clip)) for clip in range(24)]
    checked = 0
    for clip, request in zip(clips, requests, strict=True):
        if request["path"].endswith("long.mp4"):
            numbers = np.array([number_of(frame) for frame in clip])
            expected = np.round(np.array(request["times"]) * 24 - 0.5).astype(int) % 28
            noise = (numbers - expected) % 28
            assert np.ptp(noise) <= 1
            checked += 1
    assert checked > 3


def test_a_short_video_ends_with_its_last_frame_or_is_left_out(catalogue: Catalogue, workers: Workers) -> None:
    clips = ClipConfig(frames=8, strides=(1,))
    source = VideoSource(catalogue, clips)
    assert source.num_short == 1
    rng = np.random.default_rng(0)
    request = next(r for r in iter(lambda: source.draw(rng), None) if r["path"].endswith(".gif"))
    assert np.allclose(request["times"], [0.05, 0.15, 0.25, 0.35, 0.45, 0.45, 0.45, 0.45])
    without = VideoSource(catalogue, clips, short="skip")
    assert without.windows == source.windows - 1
    assert not any(without.draw(rng)["path"].endswith(".gif") for _ in range(300))
    with pytest.raises(UserError, match=r"none of 5 videos lasts for a clip of 300 frames"):
        VideoSource(catalogue, ClipConfig(300), short="skip")


def test_a_file_that_fails_gives_its_place_to_the_next_draw(workers: Workers, tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4")

    class Failing:
        share = 2

        def shape_of(self, step: int) -> tuple[int, int, int]:
            return 2, 8, 8

        def requests(self, step: int, clip: int) -> Iterator[Request]:
            for path in (tmp_path / "gone.mp4", good):
                request = {"do": "clip", "path": str(path), "times": [0.1, 0.2], "size": [8, 8], "seed": 0}
                yield {**request, "augmentation": None}

    clips = WorkerClips(Failing(), workers, 1, 3)
    assert clips(0).shape == (2, 2, 8, 8, 3)
    assert clips.figures()["files_skipped"] == 1 and clips.figures()["clips_waited"] >= 0
    assert clips.describe_refused().startswith("1 files could not be read at some place: ")
    clips.finish()


def test_a_killed_worker_is_replaced(catalogue: Catalogue) -> None:
    expected: list[NDArray[np.uint8]] = []
    for kill in (False, True):
        with Workers(1, patience_s=60.0) as own:
            clips = WorkerClips(mix(catalogue), own, 1, 4)
            batches = [clips(0)]
            if kill:
                process = own._all[0]._process
                assert process is not None
                os.kill(process.pid, signal.SIGKILL)
            batches += [clips(step) for step in range(1, 4)]
            clips.finish()
        expected = expected or batches
        assert all((a == b).all() for a, b in zip(batches, expected, strict=True))


def test_a_worker_that_hangs_ends_the_training_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_START", "import time; time.sleep(60)")
    monkeypatch.setattr(workers_module, "_START_S", 0.0)

    class Any1:
        share = 1

        def shape_of(self, step: int) -> tuple[int, int, int]:
            return 1, 1, 1

        def requests(self, step: int, clip: int) -> Iterator[Request]:
            yield {"do": "clip", "path": "stuck.mp4"}

    with (
        Workers(1, patience_s=0.2) as own,
        pytest.raises(RunStopped, match=r"stuck.mp4 takes longer than 0.2 s: remove"),
    ):
        WorkerClips(Any1(), own, 1, 1)(0)
    monkeypatch.setattr(workers_module, "_START", "import os; os.kill(os.getpid(), 11)")
    with Workers(1, patience_s=30.0) as own, own.one() as worker, pytest.raises(WorkerFailed, match="SIGSEGV"):
        worker.ask({"do": "look", "path": "crash.mp4"})


def test_workers_end_with_the_process_that_asks(catalogue: Catalogue) -> None:
    own = Workers(1, patience_s=60.0)
    read(mix(catalogue), own, range(1))
    process = own._all[0]._process
    assert process is not None and process.stdin is not None
    os.close(os.dup(process.stdin.fileno()))
    process.stdin.close()  # what the system does for a process that was killed
    assert process.wait(30) == 0
    own.close()


def test_closing_does_not_wait_for_a_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_START", "import time; time.sleep(60)")
    own = Workers(1, patience_s=60.0)
    threading.Timer(0.3, own.close).start()
    began = time.monotonic()
    with own.one() as worker, pytest.raises(WorkerFailed):
        worker.ask({"do": "look", "path": "slow.mp4"})
    assert time.monotonic() - began < 20


def test_frames_that_a_step_does_not_need_are_not_read(
    catalogue: Catalogue, store: TrajectoryStore, workers: Workers
) -> None:
    needed = {0: 1, 1: 4, 2: 2}
    sources = [VideoSource(catalogue, CLIPS), StoreSource(store, CLIPS)]
    rows = StoreRows(store, ClipSampler(store.episode_ends, 4, (1,)), 4, 3)
    for draws in (mix(catalogue, sources=sources, weights=[1.0, 1.0]), rows):
        fewer = dataclasses.replace(draws, frames_at=needed.__getitem__)
        for step, frames in needed.items():
            (request,) = islice(fewer.requests(step, 0), 1)
            assert len(request["times" if "times" in request else "rows"]) == frames
        for whole, cut in zip(read(draws, workers, range(3)), read(fewer, workers, range(3)), strict=True):
            assert (whole[:, : cut.shape[1]] == cut).all()


def test_a_store_gives_the_clips_of_its_decoded_frames(
    store: TrajectoryStore, workers: Workers, tmp_path: Path
) -> None:
    sampler = ClipSampler(store.episode_ends, 4, (1, 2), seed=3)
    cached = FrameClips(load_camera_frames(store, tmp_path / "frames.npy"), sampler, 5)
    steps = range(4)
    batches = read(StoreRows(store, sampler, 4, 5), workers, steps)
    (share,) = read(StoreRows(store, sampler, 4, 6, Rank(1, 2)), workers, range(1))
    assert (share == read(StoreRows(store, sampler, 4, 6), workers, range(1))[0][1::2]).all()
    assert all((cached(step) == batch).all() for step, batch in zip(steps, batches, strict=True))
    assert batches[0].shape != batches[1].shape  # two cameras of other sizes


def test_a_mix_draws_from_its_sources_by_their_weights(
    catalogue: Catalogue, store: TrajectoryStore, workers: Workers
) -> None:
    sources = [VideoSource(catalogue, CLIPS), StoreSource(store, CLIPS)]
    draws = mix(catalogue, sources=sources, weights=[1, 3], batch_size=200)
    kinds = [next(draws.requests(0, clip))["do"] for clip in range(200)]
    assert 0.6 < kinds.count("rows") / 200 < 0.9
    few = mix(catalogue, sources=sources, weights=[1, 3], batch_size=6)
    assert read(few, workers, range(1))[0].shape == (6, 4, 16, 24, 3)


def test_a_damaged_store_ends_the_training(store: TrajectoryStore, tmp_path: Path) -> None:
    damaged = write_store(tmp_path / "data.zarr", 2)
    files = (damaged.path / "data" / "images").rglob("*")
    chunk = next(path for path in files if path.is_file() and path.name != "zarr.json")
    chunk.write_bytes(b"\0" * chunk.stat().st_size)
    own = Workers(1, patience_s=60.0)  # the error ends it
    with pytest.raises(StoreError, match=r"cannot be decoded .*, in episode \d"):
        read(StoreRows(damaged, ClipSampler(damaged.episode_ends, 4, (1,)), 4, 8), own, range(1))


def test_strides_in_seconds_fit_the_control_steps_of_a_store(store: TrajectoryStore) -> None:
    assert ClipConfig(4, strides_s=(0.1, 0.3)).in_control_steps(0.1) == (1, 3)
    with pytest.raises(UserError, match=r"strides_s has 0.25 s, and the control steps of the recording take 0.1 s"):
        StoreSource(store, ClipConfig(4, strides_s=(0.25,)))
    with pytest.raises(ValueError, match="strides_s"):
        ClipConfig(4, strides_s=())


@pytest.mark.parametrize(
    "options", [{"size": (1, 2, 3)}, {"size": 0}, {"short": "x"}, {"workers": 0}, {"ahead": 0}, {"patience_s": 0.0}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        VideoConfig(**options)
