"""Clips stay inside their episodes, and their order is a function of seed and step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.core.errors import UserError
from worldmodel.data import ClipSampler, split_episodes
from worldmodel.data.clips import episode_starts, rows_followed

lengths_of_episodes = st.lists(st.integers(1, 30), min_size=1, max_size=12).filter(lambda lengths: max(lengths) >= 5)


@settings(deadline=None)
@given(
    lengths=lengths_of_episodes,
    clip_length=st.integers(1, 5),
    strides=st.sets(st.integers(1, 4), min_size=1).map(lambda s: (1, *s)),
    seed=st.integers(0, 2**64),
    step=st.integers(0, 2**40),
)
def test_clips_never_cross_an_episode(lengths, clip_length, strides, seed, step):
    ends = np.cumsum(lengths)
    batch = ClipSampler(ends, clip_length, strides, seed).sample(step, 64)
    assert batch.rows.shape == (64, clip_length)
    assert batch.rows.min() >= 0
    episode_of_row = np.searchsorted(ends, batch.rows, side="right")
    assert (episode_of_row == batch.episodes[:, None]).all()
    assert (np.diff(batch.rows, axis=1) == batch.strides[:, None]).all()
    assert set(batch.strides.tolist()) <= set(strides)


@given(seed=st.integers(0, 2**32), step=st.integers(0, 2**32))
def test_a_batch_depends_on_seed_and_step_alone(seed, step):
    ends = np.cumsum([40, 30, 50])
    sampler = ClipSampler(ends, 4, seed=seed)
    sampler.sample(step + 1, 32)  # what was drawn before must not matter
    batch, again = sampler.sample(step, 32), ClipSampler(ends, 4, seed=seed).sample(step, 32)
    np.testing.assert_array_equal(batch.rows, again.rows)
    assert (batch.rows != sampler.sample(step + 1, 32).rows).any()
    assert (batch.rows != ClipSampler(ends, 4, seed=seed + 1).sample(step, 32).rows).any()


def test_every_clip_is_equally_likely():
    sampler = ClipSampler(np.array([6, 9, 10]), clip_length=3, strides=(1,), seed=0)
    starts = sampler.sample(0, 50_000).rows[:, 0]
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 6]
    np.testing.assert_allclose(counts / 50_000, 0.2, atol=0.01)


@settings(deadline=None)
@given(lengths=lengths_of_episodes, per_episode=st.integers(1, 5), seed=st.integers(0, 2**32), step=st.integers(0, 99))
def test_clips_of_a_group_are_of_one_episode(lengths, per_episode, seed, step):
    ends = np.cumsum(lengths)
    batch = ClipSampler(ends, 2, (1, 2), seed).sample(step, 12 * per_episode, per_episode)
    groups = batch.episodes.reshape(12, per_episode)
    assert (groups == groups[:, :1]).all()
    assert (np.searchsorted(ends, batch.rows, side="right") == batch.episodes[:, None]).all()
    assert (np.diff(batch.rows, axis=1) == batch.strides[:, None]).all()


def test_clips_of_a_group_are_anywhere_in_their_episode():
    rows = ClipSampler(np.array([8, 30]), 3, (1,)).sample(0, 40_000, 4).rows[:, 0].reshape(-1, 4)
    assert sorted(set(rows[rows[:, 0] < 8].ravel().tolist())) == [0, 1, 2, 3, 4, 5]
    first, last = rows[rows[:, 0] >= 8][:, [0, 3]].T
    assert abs(np.corrcoef(first, last)[0, 1]) < 0.05


def test_groups_that_do_not_fill_a_batch_are_refused():
    with pytest.raises(ValueError, match="batch_size 10 is not a multiple of per_episode 4"):
        ClipSampler(np.array([8, 30]), 3).sample(0, 10, 4)


def test_strides_that_fit_nowhere_are_not_drawn():
    sampler = ClipSampler(np.array([9, 12]), clip_length=5, strides=(1, 2, 3), seed=0)
    batch = sampler.sample(0, 500)
    assert set(batch.strides.tolist()) == {1, 2}
    assert (batch.episodes[batch.strides == 2] == 0).all()


def test_only_the_given_episodes_are_drawn():
    chosen = np.array([1, 4])
    batch = ClipSampler(np.cumsum([10] * 6), 4, seed=0, episodes=chosen).sample(3, 200)
    assert set(batch.episodes.tolist()) == {1, 4}
    assert set((batch.rows // 10).ravel().tolist()) == {1, 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip_length": 11}, "no episode is long enough for clips of 11 frames at stride 1: the longest of 2 has 10"),
        ({"clip_length": 0}, "clip_length 0"),
        ({"clip_length": 2, "strides": (0, 1)}, r"strides \[0, 1\]"),
        ({"clip_length": 2, "strides": ()}, r"strides \[\]"),
        ({"clip_length": 2, "seed": -1}, "seed -1"),
        ({"clip_length": 2, "episodes": np.array([], np.int64)}, "the longest of 0"),
    ],
)
def test_what_cannot_be_sampled_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        ClipSampler(np.array([10, 20]), **arguments)


@given(num_episodes=st.integers(2, 500), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**32))
def test_a_split_is_disjoint_whole_and_repeatable(num_episodes, fraction, seed):
    split = split_episodes(num_episodes, fraction, seed)
    assert sorted([*split.train, *split.held_out]) == list(range(num_episodes))
    assert len(split.train) >= 1
    assert len(split.held_out) >= 1
    assert abs(len(split.held_out) - fraction * num_episodes) <= 1
    np.testing.assert_array_equal(split.held_out, split_episodes(num_episodes, fraction, seed).held_out)


def test_splits_of_other_seeds_differ_and_zero_holds_out_nothing():
    assert split_episodes(100, 0.1, 0).held_out.tolist() != split_episodes(100, 0.1, 1).held_out.tolist()
    assert split_episodes(3, 0.0, 0).held_out.size == 0


@pytest.mark.parametrize(("num_episodes", "fraction"), [(10, 1.0), (10, -0.1), (1, 0.5), (0, 0.0)])
def test_impossible_splits_are_refused(num_episodes, fraction):
    with pytest.raises(UserError):
        split_episodes(num_episodes, fraction, 0)


def test_rows_that_others_of_their_episode_follow() -> None:
    ends = np.array([4, 5, 9])
    assert episode_starts(ends).tolist() == [0, 4, 5]
    assert rows_followed(ends, 0).tolist() == list(range(9))
    assert rows_followed(ends, 2).tolist() == [0, 1, 5, 6]
    assert rows_followed(ends, 4).tolist() == []
