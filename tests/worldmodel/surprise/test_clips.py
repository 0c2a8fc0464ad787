"""Pairs are read in batches, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.worldmodel.toy import SPEC, make_episode
from worldmodel.core.errors import UserError
from worldmodel.data import EpisodeWriter, TrajectoryStore
from worldmodel.surprise.clips import batches, load_pairs
from worldmodel.surprise.labels import PairLabel

LENGTHS = (5, 5, 5, 5, 8, 8, 5, 5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    path: Path = tmp_path_factory.mktemp("clips") / "pairs.zarr"
    with EpisodeWriter(path, SPEC, {}) as writer:
        for seed, length in enumerate(LENGTHS):
            writer.append(make_episode(seed, length))
    return TrajectoryStore.open(path)


def pair(possible: int, impossible: int) -> PairLabel:
    return PairLabel("wall", "visible", "passes", 0, possible, impossible, 2)


def test_a_batch_has_clips_of_one_length(store: TrajectoryStore) -> None:
    labels = [pair(0, 1), pair(2, 3), pair(1, 0), pair(4, 5), pair(6, 7)]
    found = list(batches(store, labels, 2))
    assert found == [labels[:2], labels[2:3], labels[3:4], labels[4:]]


def test_clips_of_pairs_take_turns(store: TrajectoryStore) -> None:
    clips = load_pairs(store, [pair(1, 0), pair(2, 3)])
    assert clips.length == 6 and clips.images["camera"].shape == (4, 6, 32, 32, 3)
    for row, number in enumerate((1, 0, 2, 3)):
        episode = store.episode(number)
        np.testing.assert_array_equal(clips.images["camera"][row], episode.images["camera"])
        np.testing.assert_array_equal(clips.action[row], episode.action)
        np.testing.assert_array_equal(clips.proprio[row], episode.proprio)


def test_a_pair_of_different_lengths_is_refused(store: TrajectoryStore) -> None:
    with pytest.raises(UserError, match=r"episodes 3 and 4 of .* have 6 and 9 frames: expected as many"):
        list(batches(store, [pair(3, 4)], 2))
