"""Figures of probes against known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.core.statistics import auroc
from worldmodel.encoders.base import Grid
from worldmodel.encoders.probes.anomaly import detect, mahalanobis, nearest
from worldmodel.encoders.probes.classify import Part, Splits, classify, require_probes
from worldmodel.encoders.probes.features import ClipShape
from worldmodel.encoders.probes.grid import GridConfig
from worldmodel.encoders.probes.measures import auroc_interval, bootstrap_interval
from worldmodel.encoders.probes.track import track

CPU = torch.device("cpu")
# Two tubelets of two frames and two tokens each.
SHAPE = ClipShape(segments=1, frames=4, tubelets=2, grid=Grid(1, 2), width=4, sees_motion=True)
GRID = GridConfig(epochs=40, batch_size=16, learning_rates=(1e-1, 1e-6), weight_decays=(0.0,), depth=1, heads=2)


def silent(done: int, total: int) -> None:
    assert done <= total


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([float(s) for s, _ in rows]), np.array([p for _, p in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    if pairs:
        assert auroc(scores, positive) == pytest.approx(np.mean(pairs))
    else:
        assert np.isnan(auroc(scores, positive))


def test_intervals_hold_the_figure_and_shrink_with_the_clips() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (50, 800):
        values = (rng.random((1, count)) < 0.7).astype(float)
        low, high = bootstrap_interval(values)
        assert low < values.mean() < high
        widths.append(high - low)
    # 2 * 1.96 * sqrt(0.7 * 0.3 / n)
    assert widths == pytest.approx([0.254, 0.064], rel=0.2)
    assert bootstrap_interval(np.array([[0.0, 0.0], [1.0, 1.0]])) == (0.0, 1.0), "runs are drawn too"
    scores = rng.normal(size=100) + np.repeat([0, 1], 50)
    low, high = auroc_interval(scores, np.repeat([False, True], 50))
    assert low < auroc(scores, np.repeat([False, True], 50)) < high


def test_the_distance_of_a_gaussian_is_its_equation() -> None:
    rng = np.random.default_rng(0)
    known, seen = rng.normal(size=(6, 9)), rng.normal(size=(4, 9))  # fewer rows than numbers
    covariance = np.cov(known.T)
    inverse = np.linalg.inv(covariance + 0.1 * np.trace(covariance) / 9 * np.eye(9))
    away = seen - known.mean(0)
    wanted = np.sqrt(np.einsum("ni,ij,nj->n", away, inverse, away))
    np.testing.assert_allclose(mahalanobis(known, seen), wanted, rtol=1e-6)


def test_the_nearest_are_the_five_nearest() -> None:
    known = np.arange(10.0)[:, None]
    np.testing.assert_allclose(nearest(known, np.array([[0.0], [20.0]])), [np.mean([0, 1, 2, 3, 4]), 13.0], atol=1e-6)
    np.testing.assert_allclose(nearest(known[:2], np.array([[0.0]])), [0.5], atol=1e-6)


def make_splits(targets: np.ndarray, features: np.ndarray) -> Splits:
    """The first half to train on, and a quarter each to choose by and to report on."""
    count = len(features)
    cuts = (range(0, count // 2), range(count // 2, 3 * count // 4), range(3 * count // 4, count))
    parts = [Part(features, np.array(cut), targets[np.array(cut)]) for cut in cuts]
    return Splits(*parts)


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_a_class_that_is_in_the_features_is_read_and_the_better_head_is_chosen(kind: str) -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 160)
    features = rng.normal(0, 0.3, (160, 4, 4)).astype(np.float16)
    features[np.arange(160), :, classes] += 1
    found = classify(kind, make_splits(classes, features), 3, SHAPE, GRID, CPU, silent)
    assert found.accuracy == found.right.mean() > 0.9
    assert found.low <= found.accuracy <= found.high
    assert (found.learning_rate, found.weight_decay) == (1e-1, 0.0)
    shuffled = classify(kind, make_splits(rng.permutation(classes), features), 3, SHAPE, GRID, CPU, silent)
    assert shuffled.accuracy < 0.7


def test_a_head_that_diverges_is_not_chosen() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 80)
    features = (rng.normal(0, 0.1, (80, 4, 4)) + classes[:, None, None]).astype(np.float16)
    config = GridConfig(**{**vars(GRID), "learning_rates": (1e3, 1e-1), "weight_decays": (1.0,)})
    found = classify("linear", make_splits(classes, features), 2, SHAPE, config, CPU, silent)
    assert found.learning_rate == 1e-1 and found.accuracy > 0.9


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_a_point_that_is_in_the_features_is_read(kind: str) -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 1, (160, 2, 2)).repeat(2, axis=1)  # alike in both frames of a tubelet
    seen = np.ones((160, 4, 1))
    seen[:, 3] = 0
    features = np.zeros((160, 2, 2, 4), np.float16)
    features[..., :2] = places[:, ::2, None]
    features[:, 1, :, 2] = 1  # which of the two tubelets it is
    targets = np.concatenate([places, seen], axis=-1).astype(np.float32)
    splits = make_splits(targets, features.reshape(160, 4, 4))
    config = GridConfig(**{**vars(GRID), "learning_rates": (3e-2, 1e-6), "epochs": 60, "precision": "fp32"})
    found = track(kind, splits, SHAPE, config, CPU, silent)
    # The mean distance of a uniform point from the middle of a square is 0.38 of its side.
    assert found.reference_error == pytest.approx(0.38, abs=0.05)
    assert found.error < 0.5 * found.reference_error and found.low <= found.error <= found.high
    assert np.isfinite(found.hidden_error)
    targets[..., 2] = 1
    splits = make_splits(targets, features.reshape(160, 4, 4))
    config = GridConfig(**{**vars(config), "epochs": 1})
    assert np.isnan(track(kind, splits, SHAPE, config, CPU, silent).hidden_error)


def test_clips_that_differ_from_the_normal_ones_stand_out() -> None:
    rng = np.random.default_rng(0)
    features, classes = rng.normal(size=(160, 4, 4)), np.tile([0, 1], 80)
    features[classes == 1, :, 0] += 2
    found = detect(make_splits(classes, features.astype(np.float16)), 0, SHAPE)
    assert set(found) == {"gaussian", "nearest"}
    for one in found.values():
        assert one.auroc > 0.8 and one.low <= one.auroc <= one.high and one.scores.shape == (40,)


def test_probes_have_names() -> None:
    require_probes(("attentive",))
    for wrong, message in (((), "probes is empty"), (("atentive",), "did you mean attentive")):
        with pytest.raises(ValueError, match=message):
            require_probes(wrong)
