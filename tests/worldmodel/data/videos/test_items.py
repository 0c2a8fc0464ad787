"""Reading videos and recordings from end to end, in pieces."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.core.errors import RunStopped, UserError
from worldmodel.data import TrajectoryStore
from worldmodel.data.store.files import StoreError
from worldmodel.data.videos.items import EpisodeItems, Items, Pieces, ReadingConfig, VideoItems
from worldmodel.data.videos.workers import WorkerFailed, Workers


class Counted(Items):
    """Items whose frames hold their own number."""

    size = (1, 2)
    identity = "counted"

    def __init__(self, *frames: int) -> None:
        self.frames = np.array(frames, np.int64)

    def name(self, item: int) -> str:
        return f"item {item}"

    def request(self, item: int, numbers: np.ndarray) -> dict[str, Any]:
        return {"item": item, "numbers": numbers.tolist()}

    def places(self, item: int, numbers: np.ndarray) -> dict[str, Any]:
        return {"time_s": numbers * 1.0}


class Answering:
    """Workers of this process. `answers` has what they say of some items."""

    count = 2

    def __init__(self, answers: dict[int, object] | None = None) -> None:
        self._answers, self.closed, self.asked = answers or {}, False, list[int]()

    @contextlib.contextmanager
    def one(self) -> Iterator[Answering]:
        yield self

    def ask(self, request: dict[str, Any], into: np.ndarray) -> dict[str, Any]:
        self.asked.append(request["item"])
        answer = self._answers.get(request["item"], {})
        if isinstance(answer, Exception):
            raise answer
        into[:] = np.array(request["numbers"])[:, None, None, None]
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        self.closed = True


def pieces_of(items: Items, workers: object, length: int, together: int) -> Pieces:
    assert isinstance(workers, Workers | Answering)
    return Pieces(items, length, together, workers)  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 4), st.data())
def test_every_frame_is_read_once_and_batches_are_the_same_from_anywhere(
    frames: list[int], length: int, together: int, data: st.DataObject
) -> None:
    pieces = pieces_of(Counted(*frames), Answering(), length, together)
    read = list(pieces.batches(0, {}))
    assert len(read) == len(pieces)
    assert all(len(batch) == together for batch in read[:-1])
    found = [(piece.item, int(n)) for batch in read for piece in batch for n in piece.numbers]
    assert found == [(item, n) for item, count in enumerate(frames) for n in range(count)]
    assert all((piece.frames[:, 0, 0, 0] == piece.numbers).all() for batch in read for piece in batch)
    first = data.draw(st.integers(0, len(pieces)))
    later = list(pieces.batches(first, {}))
    assert [[p.numbers.tolist() for p in b] for b in later] == [[p.numbers.tolist() for p in b] for b in read[first:]]


def test_what_is_left_out_is_not_asked_for() -> None:
    workers = Answering({1: {"refused": "item 1 is damaged"}})
    batches = list(pieces_of(Counted(2, 2, 2), workers, 2, 1).batches(0, {2: "was damaged before"}))
    assert [piece.refused for batch in batches for piece in batch] == ["", "item 1 is damaged", "was damaged before"]
    assert sorted(workers.asked) == [0, 1]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (WorkerFailed("takes longer than 60 s"), RunStopped, "item 0 takes longer than 60 s: remove it, or raise "),
        ({"error": "chunk 3 is missing"}, StoreError, "chunk 3 is missing"),
    ],
)
def test_an_error_ends_the_processes(answer: object, error: type[Exception], message: str) -> None:
    workers = Answering({0: answer})
    with pytest.raises(error, match=message):
        list(pieces_of(Counted(2), workers, 2, 1).batches(0, {}))
    assert workers.closed


@given(st.floats(0.2, 30), st.sampled_from([10.0, 12.5, 29.97, 60.0]), st.integers(1, 7), st.booleans())
def test_the_frames_of_a_video_lie_in_it(duration: float, rate: float, stride: int, by_rate: bool) -> None:
    catalogue: Any = SimpleNamespace(
        durations_s=np.array([duration]), rates_hz=np.array([rate]), identity="", path=lambda number: f"{number}.mp4"
    )
    asked_hz = 7.0 if by_rate else None
    items = VideoItems(catalogue, (8, 8), 1 if by_rate else stride, asked_hz)
    numbers = np.arange(items.frames[0])
    times = np.array(items.request(0, numbers)["times"])
    assert (times >= 0).all() and (times <= duration + 1e-6).all() and (np.diff(times) > 0).all()
    period = 1 / 7.0 if by_rate else stride / rate
    np.testing.assert_allclose(items.places(0, numbers)["time_s"], numbers * period)
    # Another frame would begin after the last frame of the video.
    assert len(numbers) * period > duration - 1 / rate - 1e-3


def test_the_frames_of_an_episode_are_rows_of_the_store(toy_store: TrajectoryStore) -> None:
    items = EpisodeItems(toy_store, "camera", 5)
    assert items.frames.tolist() == [3] * 24 and items.size == (32, 32)
    places = items.places(2, np.arange(3))
    assert places["row"].tolist() == [26, 31, 36]
    np.testing.assert_allclose(places["time_s"], [0, 0.5, 1.0])
    with Workers(1, 60.0) as workers:
        (batch,) = Pieces(items, 3, 24, workers).batches(0, {})
    episode = toy_store.episode(7)
    assert (batch[7].frames == episode.images["camera"][::5]).all() and not batch[7].refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride 0: expected a whole number of at least 1"),
        ({"rate_hz": 5.0, "stride": 2}, "rate_hz 5.0 with stride 2: expected 0 to 1000, and stride 1"),
        ({"rate_hz": -1.0}, "rate_hz -1.0 with stride 1"),
        ({"size": (1, 2, 3)}, r"size \(1, 2, 3\): expected one or two whole numbers"),
        ({"workers": 0}, "workers 0 and patience_s 60.0"),
    ],
)
def test_how_nothing_can_be_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReadingConfig(**options)


def test_a_recording_without_episodes(tmp_path: Any) -> None:
    empty: Any = SimpleNamespace(num_episodes=0, name="data.zarr")
    with pytest.raises(UserError, match=r"data.zarr holds no episode yet"):
        EpisodeItems(empty, "camera", 1)
