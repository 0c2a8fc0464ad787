"""The way to a goal: path lengths, the embedding that learns them, and the preference for sequences with motion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldmodel.compression import Compression, CompressionConfig
from worldmodel.geodesic import GeodesicConfig, GeodesicEmbedding, path_lengths
from worldmodel.training import prefer_motion

SMALL = GeodesicConfig(frames=240, landmarks=60, neighbours=4, inputs=8, size=4, hidden=32, steps=400)


def circle_with_a_gap(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Points on five sixths of the unit circle: its ends are near each other, the way between them is long."""
    angle = np.linspace(0, 2 * np.pi * 5 / 6, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def identity_compression(size: int) -> Compression:
    """One that leaves features as they are: all weights stay one until it is fitted."""
    return Compression(CompressionConfig(channels=size, size=size), 1, size)


def test_path_follows_the_points_and_not_the_chord() -> None:
    points = circle_with_a_gap(200)
    lengths = path_lengths(points, np.array([0]), neighbours=2)[0]
    arc = np.linspace(0, 2 * np.pi * 5 / 6, 200)
    np.testing.assert_allclose(lengths, arc, atol=0.02)
    assert lengths[-1] > 5 * np.linalg.norm(points[0] - points[-1])


def test_points_without_a_path_are_infinitely_far() -> None:
    points = np.array([[0.0], [1.0], [100.0], [101.0]], np.float32)
    lengths = path_lengths(points, np.array([0]), neighbours=1)[0]
    np.testing.assert_allclose(lengths[:2], [0, 1], atol=1e-5)
    assert np.isinf(lengths[2:]).all()


def test_embedding_orders_by_the_way_where_the_features_do_not() -> None:
    points = torch.from_numpy(circle_with_a_gap(240))
    features = torch.cat([points, torch.zeros(240, 6)], dim=1)
    torch.manual_seed(0)
    embedding = GeodesicEmbedding(SMALL, 8)
    error = embedding.fit(features, identity_compression(8), seed=0)
    assert error < 0.15
    to_end = embedding.distance(features, features[-1])
    assert to_end[0] > to_end[120] > to_end[200], "the other end of the gap is the farthest, not the nearest"
    straight = (features - features[-1]).norm(dim=-1)
    assert straight[0] < straight[120]


def test_random_frames_are_about_two_apart() -> None:
    points = torch.from_numpy(circle_with_a_gap(240))
    features = torch.cat([points, torch.zeros(240, 6)], dim=1)
    torch.manual_seed(0)
    embedding = GeodesicEmbedding(SMALL, 8)
    embedding.fit(features, identity_compression(8), seed=0)
    shuffled = features[torch.randperm(240)]
    assert float(embedding.distance(features, shuffled).mean()) == pytest.approx(2, rel=0.2)


def test_fit_is_deterministic_and_leaves_it_frozen() -> None:
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32))
    outcomes = []
    for _ in range(2):
        torch.manual_seed(1)
        embedding = GeodesicEmbedding(SMALL, 8)
        embedding.fit(features, identity_compression(8), seed=3)
        assert not any(parameter.requires_grad for parameter in embedding.parameters())
        outcomes.append(embedding(features))
    assert torch.equal(*outcomes)


@pytest.mark.parametrize("options", [{"frames": 0}, {"coarseness": -1.0}, {"weight": -0.1}, {"steps": 0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GeodesicConfig(**options)  # type: ignore[arg-type]


def test_half_of_a_batch_is_where_most_happens() -> None:
    places = np.arange(40, dtype=np.float32)[:, None] ** 2  # later rows move more per step
    candidates = np.arange(16)[:, None] + np.arange(4)
    chosen = prefer_motion(candidates, places, first=1)
    assert chosen.shape == (8, 4)
    assert {tuple(row) for row in candidates[-4:]} <= {tuple(row) for row in chosen}, "the four that move most"
    assert [row[0] for row in chosen[4:]] == [0, 1, 2, 3], "the rest as they come"
