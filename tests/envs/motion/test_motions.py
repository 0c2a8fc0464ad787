"""Labelled clips: labels are shown by the motion, and by no still frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from envs.motion.motions import BOX, DISC, PALETTE, TASKS, Motion, draw_motion
from envs.motion.scene import ClipScene

FRAMES = 8
# Chances of a test that fails although nothing is wrong. Seeds are fixed, so that it fails always or never.
RISK = 1e-3


def motions(task: str, count: int, seed: int = 0, frames: int = FRAMES) -> list[Motion]:
    return [draw_motion(task, n, frames, np.random.default_rng([seed, n])) for n in range(count)]


def scenery_of(number: int) -> int:
    return 1 + number


def binomial_bounds(chance: float, n: int) -> tuple[float, float]:
    """Shares of right guesses that a guesser reaches with all but `RISK`, by the exact binomial distribution."""
    logs = torch.arange(1, n + 1).double().log().cumsum(0)
    choose = logs[-1] - torch.cat([torch.zeros(1).double(), logs]) - torch.cat([torch.zeros(1).double(), logs]).flip(0)
    successes = torch.arange(n + 1).double()
    mass = (choose + successes * np.log(chance) + (n - successes) * np.log(1 - chance)).exp()
    below = mass.cumsum(0)
    return float((below > RISK / 2).nonzero()[0]) / n, float((below > 1 - RISK / 2).nonzero()[0]) / n


def guess(train: NDArray[np.float64], labels: NDArray[np.int64], test: NDArray[np.float64]) -> NDArray[np.int64]:
    """Classes by ridge regression to one-hot labels, from the rows of `train` and `test`."""
    mean, scale = train.mean(0), train.std(0) + 1e-6
    inner, outer = (train - mean) / scale, (test - mean) / scale
    targets = np.eye(labels.max() + 1)[labels]
    dual = np.linalg.solve(inner @ inner.T + 0.1 * inner.shape[1] * np.eye(len(inner)), targets - targets.mean(0))
    return np.asarray((outer @ (inner.T @ dual)).argmax(1))


def label_numbers(task: str, found: list[Motion]) -> NDArray[np.int64]:
    return np.array([TASKS[task].labels.index(motion.label) for motion in found])


@pytest.mark.parametrize("task", list(TASKS))
def test_labels_take_turns_and_motions_depend_on_the_seed_alone(task: str) -> None:
    labels = TASKS[task].labels
    first, again = motions(task, 2 * len(labels)), motions(task, 2 * len(labels))
    assert [motion.label for motion in first] == [*labels, *labels]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.places, b.places)
        np.testing.assert_array_equal(a.colours, b.colours)
    assert not np.array_equal(first[0].places, motions(task, 1, seed=1)[0].places)


def signs_of(motion: Motion, frame: int) -> list[float]:
    """What one frame shows, in numbers: where things are and what they look like, and products of these."""
    places = motion.places[frame].ravel()
    seen = motion.visible()[frame]
    known = np.where(np.repeat(seen, 2), places, 9.0)  # a place that is out of sight says nothing
    turned = [0.0, 0.0] if motion.plate is None else [np.cos(2 * motion.plate.yaw), np.sin(2 * motion.plate.yaw)]
    colours = [float(c == n) for c in motion.colours[frame] for n in range(len(PALETTE))] if seen.all() else [0.0]
    distance = np.hypot(*(motion.places[frame, 0] - motion.places[frame, -1]))
    shapes = [float(shape == DISC) for shape in motion.shapes]
    return [*known, *known**2, *np.outer(known, known).ravel(), distance, *turned, *colours[:1], *shapes, motion.radius]


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("frame", [0, *(pytest.param(frame, marks=pytest.mark.slow) for frame in (3, FRAMES - 1))])
def test_places_and_colours_of_one_frame_say_nothing_about_the_label(task: str, frame: int) -> None:
    """Means of many quantities under every label, compared with the mean under all of them."""
    count = 3000
    found = motions(task, count)
    signs, labels = np.array([signs_of(motion, frame) for motion in found]), label_numbers(task, found)
    varying = signs[:, signs.std(0) > 0]
    error = varying.std(0) * np.sqrt(len(TASKS[task].labels) / count)
    for label in range(len(TASKS[task].labels)):
        scores = (varying[labels == label].mean(0) - varying.mean(0)) / error
        assert np.abs(scores).max() < 4.5, (task, label)  # 60 scores, each beyond 4.5 once in 150,000


def pictures_of(found: list[Motion], frames: list[int]) -> NDArray[np.float64]:
    """What a probe of single frames sees, `[clips, frames, numbers]`: grey values and colourfulness, coarsely."""
    scene = ClipScene(32)
    try:
        images = [[scene.render(m, scenery_of(n), t)[0] for t in frames] for n, m in enumerate(found)]
    finally:
        scene.close()
    pixels = np.array(images, np.float64) / 255
    planes = np.stack([pixels.mean(-1), np.ptp(pixels, axis=-1)], axis=2)
    coarse = planes.reshape(*planes.shape[:3], 8, 4, 8, 4).mean((4, 6))
    return coarse.reshape(*coarse.shape[:2], -1)


def share_right(pictures: NDArray[np.float64], labels: NDArray[np.int64], train: int) -> float:
    return float((guess(pictures[:train], labels[:train], pictures[train:]) == labels[train:]).mean())


@pytest.mark.slow
@pytest.mark.parametrize("task", list(TASKS))
def test_the_pixels_of_single_frames_are_at_chance(task: str) -> None:
    train, test, frames = 350, 250, [0, 3]
    found = motions(task, train + test, seed=2)
    pictures, labels = pictures_of(found, frames), label_numbers(task, found)
    low, high = binomial_bounds(1 / len(TASKS[task].labels), test)
    for number, frame in enumerate(frames):
        right = share_right(pictures[:, number], labels, train)
        assert low <= right <= high, (task, frame, right)


def test_the_same_probe_finds_a_label_that_frames_do_show() -> None:
    """The side of the object as its label."""
    found = [motion for motion in motions("direction", 800, seed=3) if motion.visible()[0, 0]]
    labels = np.array([int(motion.places[0, 0, 0] > 0) for motion in found])
    assert share_right(pictures_of(found, [0])[:, 0], labels, 400) > binomial_bounds(0.5, len(found) - 400)[1]


# --- what the labels mean --------------------------------------------------------------------------------------------


def steps_of(motion: Motion, k: int = 0) -> NDArray[np.float64]:
    """Ways from frame to frame `[T - 1, 2]`, without those over the edge of the square."""
    steps = np.diff(motion.places[:, k], axis=0)
    return steps[np.abs(steps).max(1) < 0.5]


def test_directions_and_speeds_are_what_they_say() -> None:
    ways = {"right": (1, 0), "up": (0, 1), "left": (-1, 0), "down": (0, -1)}
    for motion in motions("direction", 40):
        steps = steps_of(motion)
        taken = steps / np.linalg.norm(steps, axis=1)[:, None]
        np.testing.assert_allclose(taken, [ways[motion.label]] * len(steps), atol=1e-9)
    speeds = {
        label: [np.linalg.norm(steps_of(m), axis=1).mean() for m in motions("speed", 90) if m.label == label]
        for label in TASKS["speed"].labels
    }
    assert max(speeds["slow"]) < min(speeds["medium"]) and max(speeds["medium"]) < min(speeds["fast"])


def test_the_first_to_move_moves_first_and_both_move() -> None:
    for motion in motions("order", 40, frames=64):
        assert motion.shapes == (DISC, BOX)
        begins = [int((np.abs(np.diff(motion.places[:, k], axis=0)).max(1) > 1e-9).argmax()) for k in (0, 1)]
        assert min(begins) > 0
        assert (begins[0] < begins[1]) == (motion.label == "disc_first")


@pytest.mark.parametrize("number", range(20))
def test_discs_bounce_or_pass_and_never_overlap(number: int) -> None:
    motion = draw_motion("collision", number, 200, np.random.default_rng(number))
    between = motion.places[:, 1] - motion.places[:, 0]
    distances = np.linalg.norm(between, axis=1)
    assert distances.min() >= 2 * motion.radius - 1e-9
    assert distances.min() < 2 * motion.radius + 0.01
    cosine = float(between[0] @ between[-1]) / (distances[0] * distances[-1])
    assert cosine > 0.99 if motion.label == "bounce" else cosine < 0


def test_what_comes_out_is_the_same_or_another_and_changes_out_of_sight() -> None:
    for motion in motions("occlusion", 60, frames=101):
        colours = motion.colours[:, 0]
        changes = np.flatnonzero(np.diff(colours))
        assert len(changes) == (motion.label == "changed")
        assert not motion.visible()[changes].any() and not motion.visible()[changes + 1].any()
        assert motion.visible()[:25].any() and motion.visible()[-25:].any()


def test_the_point_is_where_the_picture_shows_the_object() -> None:
    scene, compared = ClipScene(64), 0
    try:
        for number in range(12):
            motion = draw_motion("direction", number, FRAMES, np.random.default_rng(number))
            pictures, points = scene.render(motion, 0).astype(float), scene.points(motion, 0)
            coloured = np.ptp(pictures, axis=-1) > 60  # the plain floor is grey
            inside = ((points > 6) & (points < 58)).all(1)
            for t in np.flatnonzero(inside):
                compared += 1
                rows, columns = np.nonzero(coloured[t])
                np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], points[t], atol=0.5)
        assert compared > 12  # an object may stay near an edge of the view, but not all of them
    finally:
        scene.close()


def test_a_frame_does_not_depend_on_what_was_rendered_before() -> None:
    first, second = (draw_motion(task, 1, FRAMES, np.random.default_rng(1)) for task in ("occlusion", "collision"))
    scene, other = ClipScene(32), ClipScene(32)
    try:
        before = scene.render(second, 7)
        scene.render(first, 3)
        np.testing.assert_array_equal(scene.render(second, 7), before)
        np.testing.assert_array_equal(other.render(second, 7, 4)[0], before[4])
    finally:
        scene.close()
        other.close()
