"""Aligns the image of a camera that was moved, or stands in another light, with the images of a recording.

A fixed camera sees a background that never changes. How the background has moved in an image, and how its colours
differ, is therefore how the camera differs, whatever the robot and the objects do. Both are estimated together:

    gains * image(W(x)) ≈ reference(x)        W(x) = (1 + zoom) R(turn) x + move

by efficient second-order minimisation (Benhimane and Malis, IROS 2004), which is the method of Lucas and Kanade with
the mean of both images' gradients, from coarse to fine images. Robot and objects are outliers, which the weights of
Geman and McClure suppress. A weak prior holds what the background does not show, such as the zoom of a checkerboard.

Shapes: `H, W` height and width of an image, `M` points of the background. Places `x` are counted from the image's
centre in widths, to the right and down. A pose has 4 numbers `(a, b, u, v)`, for which
`W(x) = [[1 + a, -b], [b, 1 + a]] x + (u, v)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.float64]

# Images are reduced to about this size first: edges of a smaller image say less, those of a larger one cost more.
_ESTIMATED_AT: Final = 64
# Image sizes are halved so often. At an eighth of the size, a camera that moved by a tenth of the image is a pixel off.
_LEVELS: Final = 4
_COARSE_STEPS, _FINE_STEPS = 6, 12
_QUICK_STEPS: Final = 4
# The share of a hint's inliers at which it still fits: what the robot hides changes from step to step.
_AS_WELL: Final = 0.95
_CONVERGED_PX: Final = 0.005
# Points of the finest image: those where the background has an edge, and a grid of others, which show the colours.
_EDGE_POINTS, _FLAT_STRIDE = 512, 4
# Residuals beyond this are outliers [grey levels]. Noise, compression and blur stay below it, other objects do not.
_OUTLIER: Final = 20.0
# Standard deviations of the prior: zoom, turn [radians] and move [widths] of a camera that somebody put back in place,
# and gains of another light.
_PRIOR: Final = np.array([0.05, 0.08, 0.05, 0.05, 0.2, 0.2, 0.2])
# What a residual counts against the prior [grey levels]. It is large for the pose, since the residuals of an object
# that hides an edge have one cause and are no evidence of many, and largest for the zoom, which few edges show.
_EVIDENCE: Final = np.array([150.0, 60.0, 60.0, 60.0, 8.0, 8.0, 8.0])
# A camera that is further away has other things in view, and what is estimated then is chance.
_FARTHEST_PX, _LARGEST_GAIN = 0.25, 2.0


@dataclasses.dataclass(frozen=True)
class CameraChange:
    """How a camera differs from the one of the recording.

    Attributes:
        pose: `(a, b, u, v)`, from a place in the reference to its place in the image.
        gains: factors `[3]` that turn the image's colours into those of the reference.
        inliers: share of the visible background that agrees with the reference, from 0 to 1.
    """

    pose: Numbers
    gains: Numbers
    inliers: float

    @property
    def shift(self) -> float:
        """By how much the corners of a square image move, root mean square [widths]."""
        zoom, turn, right, down = self.pose
        return float(np.sqrt((zoom**2 + turn**2) / 2 + right**2 + down**2))

    @property
    def is_plausible(self) -> bool:
        """Whether such a change may be corrected at all."""
        bounded = (self.gains < _LARGEST_GAIN).all() and (self.gains > 1 / _LARGEST_GAIN).all()
        return bool(np.isfinite(self.shift) and self.shift < _FARTHEST_PX and bounded)


class Aligner:
    """Estimates the `CameraChange` of images against one reference.

    Args:
        reference: colours of the background, `[H, W, 3]`.
        trust: share of a recording's frames in which a pixel shows the background, `[H, W]`.
    """

    def __init__(self, reference: Numbers, trust: Numbers) -> None:
        reference = reduced(np.asarray(reference, np.float64), _ESTIMATED_AT)
        trust = reduced(np.asarray(trust, np.float64)[..., None], _ESTIMATED_AT)
        images, trusts = _pyramid(reference), _pyramid(trust)
        self._levels = [_Level(image, share[..., 0]) for image, share in zip(images, trusts, strict=True)]

    def estimate(self, image: Pixels, usual_inliers: float = np.inf, hint: CameraChange | None = None) -> CameraChange:
        """How the camera that took `image [H, W, 3]` differs.

        Args:
            image: of any size and of the proportions of the reference.
            usual_inliers: share of inliers at which a camera near its usual place needs no coarse search.
            hint: how it differed a moment ago. Nothing is searched near it if it still fits almost as well.
        """
        finest = reduced(image.astype(np.float64), _ESTIMATED_AT)
        with_slopes = with_gradients(finest)
        start = hint if hint is not None and hint.is_plausible and hint.inliers > 0 else _NOWHERE
        near = self._levels[0].refine(with_slopes, start, _QUICK_STEPS)
        if near.inliers >= min(usual_inliers, start.inliers * _AS_WELL or np.inf):
            return near
        gradients = [with_slopes, *map(with_gradients, _pyramid(finest)[1:])]
        found = _NOWHERE
        for level, each in list(zip(self._levels, gradients, strict=True))[:0:-1]:
            found = level.refine(each, found, _COARSE_STEPS)
        found = self._levels[0].refine(gradients[0], found, _FINE_STEPS)
        return max(found, near, key=lambda change: change.inliers)


_NOWHERE: Final = CameraChange(np.zeros(4), np.ones(3), 0.0)


class _Level:
    """The reference at one size, at the points that are compared.

    Args:
        reference: `[h, w, 3]`.
        trust: `[h, w]`.
    """

    def __init__(self, reference: Numbers, trust: Numbers) -> None:
        height, width = trust.shape
        values = with_gradients(reference)
        strength = trust * np.square(values[..., 3:]).sum(-1)
        chosen = np.zeros((height, width), bool)
        chosen.ravel()[np.argsort(-strength, axis=None, kind="stable")[:_EDGE_POINTS]] = True
        chosen[_FLAT_STRIDE // 2 :: _FLAT_STRIDE, _FLAT_STRIDE // 2 :: _FLAT_STRIDE] = True
        rows, columns = np.nonzero(chosen)
        self._width = width
        self._places = np.stack([columns + 0.5 - width / 2, rows + 0.5 - height / 2], axis=-1) / width
        at = values[rows, columns]
        self._colours, self._slopes = at[:, :3], _by_channel(at)
        self._trust = trust[rows, columns]
        # A level of a quarter of the pixels has a quarter of the evidence.
        self._prior = (_EVIDENCE / _PRIOR) ** 2 * len(rows) / (_EDGE_POINTS + height * width / _FLAT_STRIDE**2)

    def refine(self, image: Numbers, start: CameraChange, most_steps: int) -> CameraChange:
        """The change near `start` that fits `image [h, w, 9]` (with its gradients) best."""
        pose, gains = start.pose, start.gains
        for _ in range(most_steps):
            residual, weights, slopes, seen = self._compare(image, pose, gains)
            jacobian = np.zeros((*residual.shape, 7))
            jacobian[..., :4] = _pose_jacobian((slopes * gains[:, None] + self._slopes) / 2, self._places)
            for channel in range(3):
                jacobian[:, channel, 4 + channel] = seen[:, channel]
            flat = jacobian.reshape(-1, 7)
            weighted = (jacobian * weights[:, None, None]).reshape(-1, 7)
            normal = weighted.T @ flat + np.diag(self._prior)
            away = np.concatenate([pose, gains - 1])
            step = -np.linalg.solve(normal, weighted.T @ residual.ravel() + self._prior * away)
            pose, gains = _composed(pose, step[:4]), gains + step[4:]
            if not np.isfinite(pose).all() or np.abs(step[:4]).max() * self._width < _CONVERGED_PX:
                break  # the weights are those of the place where it stands
        else:
            _, weights, _, _ = self._compare(image, pose, gains)
        return CameraChange(pose, gains, float(np.sqrt(weights).sum() / np.sqrt(self._trust).sum()))

    def _compare(self, image: Numbers, pose: Numbers, gains: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """Residual `[M, 3]`, weights `[M]`, slopes of the warped image `[M, 3, 2]` and its colours `[M, 3]`."""
        zoom, turn, right, down = pose
        matrix = np.array([[1 + zoom, -turn], [turn, 1 + zoom]])
        sampled = _sampled(image, self._places @ matrix.T + (right, down))
        seen = sampled[:, :3]
        residual = seen * gains - self._colours
        error = np.square(residual).mean(-1)
        weights = self._trust / np.square(1 + error / _OUTLIER**2)
        return residual, weights, _by_channel(sampled) @ matrix, seen


def _pose_jacobian(slopes: Numbers, places: Numbers) -> Numbers:
    """Change of colours `[M, 3, 4]` with a pose about the identity, from `slopes [M, 3, 2]` at `places [M, 2]`."""
    across, down = slopes[..., 0], slopes[..., 1]
    x, y = places[:, :1], places[:, 1:]
    return np.stack([across * x + down * y, down * x - across * y, across, down], axis=-1)


def _composed(pose: Numbers, step: Numbers) -> Numbers:
    """`pose` after `step`: `W(x) = W_pose(W_step(x))`."""
    (a, b, u, v), (da, db, du, dv) = pose, step
    return np.array(
        [
            (1 + a) * (1 + da) - b * db - 1,
            b * (1 + da) + (1 + a) * db,
            (1 + a) * du - b * dv + u,
            b * du + (1 + a) * dv + v,
        ]
    )


def _by_channel(values: Numbers) -> Numbers:
    """Slopes `[M, 3, 2]` of values with gradients `[M, 9]`."""
    return np.stack([values[:, 3:6], values[:, 6:]], axis=-1)


def reduced(image: Numbers, size: int) -> Numbers:
    """`image [H, W, C]`, averaged over squares of pixels until its shorter side is below two times `size`."""
    factor = max(1, min(image.shape[:2]) // size)
    height, width = (side // factor for side in image.shape[:2])
    cut = image[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor, -1).mean((1, 3))


def _pyramid(image: Numbers) -> list[Numbers]:
    """`image [h, w, C]`, and the same at a half, a quarter and so on of its size."""
    levels: list[Numbers] = [image]
    while len(levels) < _LEVELS and min(levels[-1].shape[:2]) >= 16:
        last = levels[-1]
        last = last[: last.shape[0] // 2 * 2, : last.shape[1] // 2 * 2]
        levels.append((last[::2, ::2] + last[1::2, ::2] + last[::2, 1::2] + last[1::2, 1::2]) / 4)
    return levels


def with_gradients(image: Numbers) -> Numbers:
    """`image [h, w, 3]` with its gradients to the right and down [grey levels per width], `[h, w, 9]`."""
    width = image.shape[1]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) * (width / 2)
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) * (width / 2)
    return np.concatenate([image, across, down], axis=-1)


def _sampled(image: Numbers, places: Numbers) -> Numbers:
    """Values `[M, C]` of `image [h, w, C]` at `places [M, 2]`, bilinear; beyond its edge, that of the edge."""
    height, width, channels = image.shape
    x = np.clip(places[:, 0] * width + (width - 1) / 2, 0, width - 1)
    y = np.clip(places[:, 1] * width + (height - 1) / 2, 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    right, below = (x - left)[:, None], (y - top)[:, None]
    flat, corner = image.reshape(-1, channels), top * width + left
    upper = flat[corner] * (1 - right) + flat[corner + 1] * right
    lower = flat[corner + width] * (1 - right) + flat[corner + width + 1] * right
    return upper * (1 - below) + lower * below


def background(frames: Sequence[Pixels] | NDArray[np.uint8]) -> tuple[Numbers, Numbers]:
    """Median colours `[H, W, 3]` of `frames [F, H, W, 3]`, and the share `[H, W]` of frames that show them."""
    stacked = np.asarray(frames)
    median = np.median(stacked, axis=0)
    away = np.abs(stacked.astype(np.float32) - median).max(-1)
    return median, (away < _OUTLIER / 2).mean(0)
