"""Statistics agree with numpy's, over the episodes they are asked for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from worldmodel.core.errors import UserError
from worldmodel.data import EpisodeWriter, StoreError, TrajectoryStore, compute_statistics


def test_statistics_are_those_of_the_chosen_episodes(store, make_episode):
    chosen = np.array([0, 2, 4])
    result = compute_statistics(store, chosen)
    episodes = [make_episode(i, n) for i, n in ((0, 20), (2, 33), (4, 40))]
    action = np.concatenate([e.action[:-1] for e in episodes]).astype(np.float64)
    proprio = np.concatenate([e.proprio for e in episodes]).astype(np.float64)
    for values, mean, std in (
        (action, result.action_mean, result.action_std),
        (proprio, result.proprio_mean, result.proprio_std),
    ):
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-9)
        np.testing.assert_allclose(std, values.std(0), rtol=1e-9)


def test_a_small_spread_around_a_large_value_and_a_constant(tmp_path, spec, make_episode):
    episode = make_episode(1, 200)
    rng = np.random.default_rng(0)
    proprio = np.stack([1000 + rng.standard_normal(201), np.full(201, 3.0), np.full(201, -1e6)], 1).astype(np.float32)
    with EpisodeWriter(tmp_path / "data.zarr", spec) as writer:
        writer.append(dataclasses.replace(episode, proprio=proprio))
    result = compute_statistics(TrajectoryStore.open(tmp_path / "data.zarr"), np.array([0]))
    np.testing.assert_allclose(result.proprio_mean, proprio.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.proprio_std[0], proprio[:, 0].astype(np.float64).std(), rtol=1e-9)
    assert result.proprio_std[1:] == (1e-4, 1e-4)


def test_no_episodes_no_statistics(store):
    with pytest.raises(UserError, match="no episode"):
        compute_statistics(store, np.array([], np.int64))


@pytest.mark.parametrize("name", ["action", "proprio"])
def test_numbers_that_were_exchanged_are_noticed(tmp_path, store, write_store, name):
    other = write_store(tmp_path / "other.zarr", first=50)
    (store.path / f"data/{name}/c.0.0").write_bytes((other.path / f"data/{name}/c.0.0").read_bytes())
    with pytest.raises(StoreError, match=f"{name} of episode 0 is not what was recorded"):
        compute_statistics(TrajectoryStore.open(store.path), np.arange(5))
