"""Statistics of control that grow when something is wrong, with one value per control step and robot.

    surprise        distance(imagined one step ahead, observed) / what the model expects of it     (running mean)
    drift           distance(imagined four steps ahead under the commands given, observed)
    motion          distance(imagined one step ahead, felt), in the readings' standard deviations     (running mean)
    stillness       how far the robot moved / how much the image changed                           (running mean)
    disagreement    the bound that the model gives for the error at the end of its plan            (running mean)
    novelty         how unlike the training's images the observed one is                           (running mean)
    stall           control steps since the goal last came nearer by a twentieth of its distance

Drift tells small errors that agree, as of an object that slides too far at every step. Over several steps they add up,
while errors that are noise cancel each other, as in a cumulative sum (Page 1954). It is not divided by what the model
expects, because a model expects more where it was often wrong, which is where objects touch. Stillness tells a camera
that repeats its image. Of several cameras, the one whose image changed least counts.

Every model is watched by surprise, drift, stillness and stall. Motion needs one that imagines proprioception: a goal's
distance hardly sees the robot itself. Disagreement needs one with confidence, and novelty one that knows its images.

Shapes: `B` robots, `A` action dimensions, `H` control steps of a plan.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.alarms import Check
from planning.decision import Decision
from planning.objectives import imagining_with_confidence
from planning.types import Model, Plan
from worldmodel.core.observation import Observation

DRIFT_STEPS: Final = 4  # control steps: an object that slides too far shows, and the next goal is not yet reached
# Smaller changes of the distance are no progress: keypoints of an image in which nothing moves differ by so much.
_PROGRESS: Final = 0.05
# The level of the bound on an error that counts as expected, and the one for the end of a plan.
_EXPECTED, _AT_WORST = 0.5, 0.9
_LEAST: Final = 1e-6  # an expectation of zero would make everything infinitely surprising
# Mean change of an image [of 255] that counts as none: a hundredth of a rounding step. A repeated image changes by 0,
# or by little more if it was compressed again.
_NO_CHANGE: Final = 0.01
_MEANS: Final = (Check.SURPRISE, Check.MOTION, Check.STILLNESS, Check.DISAGREEMENT, Check.NOVELTY)


@dataclasses.dataclass(frozen=True)
class _Moment:
    """What one robot saw at a control step, and which command followed.

    Attributes:
        latent: `[1, ...]`.
        images: by camera, uint8 `[H, W, 3]`.
        before: `[1, A]`, the command in force then.
        command: `[1, A]`, the one that was given.
    """

    latent: Any
    images: Mapping[str, NDArray[np.uint8]]
    before: Tensor
    command: Tensor


@dataclasses.dataclass
class _Track:
    """What is remembered of one robot.

    Attributes:
        recent: the last values of each running mean.
        past: the last control steps in a row.
        ahead: what was imagined from the last of these under its command, latents `[1, 1, H', ...]`, or None.
        plan: the last plan, and the bound for its end.
    """

    recent: dict[Check, collections.deque[float]]
    past: collections.deque[_Moment] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=DRIFT_STEPS))
    ahead: Any = None
    plan: Plan | None = None
    at_worst: float = 0.0
    sub_goal: int = 0
    best: float = math.inf
    waited: int = 0


class Scores:
    """Measures every `Decision` of the controller of a model.

    Args:
        model: the model that plans.
        window: control steps of the running means. What lies before an episode counts as zero.

    Attributes:
        checks: what this model's scores are of.
    """

    def __init__(self, model: Model, window: int) -> None:
        self._model: Any = model
        self._window, self._tracks = window, dict[int, _Track]()
        self._limits = ActionLimits.of(model.spec.action, model.spec.control_step_s)
        self._has_confidence = bool(getattr(model, "has_confidence", False))
        self._has_novelty = bool(getattr(model, "has_novelty", False))
        self._has_motion = callable(getattr(model, "proprioception", None)) and model.spec.proprio_size > 0
        known = {
            Check.MOTION: self._has_motion,
            Check.DISAGREEMENT: self._has_confidence,
            Check.NOVELTY: self._has_novelty,
        }
        self.checks = tuple(check for check in Check if known.get(check, True))

    def begin(self, row: int) -> None:
        """A new episode begins for robot `row`."""
        means = [check for check in self.checks if check in _MEANS]
        self._tracks[row] = _Track({check: collections.deque(maxlen=self._window) for check in means})

    def forget(self, row: int) -> None:
        """There is a gap in what robot `row` saw: the next observation follows from nothing."""
        track = self._tracks[row]
        track.past.clear()
        track.ahead = None

    def was_given(self, row: int, command: Tensor) -> None:
        """Robot `row` was given `command [1, A]` instead of the one decided last."""
        track = self._tracks[row]
        if not track.past:
            return
        given = command.cpu()
        if not torch.equal(given, track.past[-1].command):
            track.past[-1] = dataclasses.replace(track.past[-1], command=given)
            track.ahead = None

    @torch.no_grad()
    def measure(self, decision: Decision, seen: Observation, last: Tensor) -> tuple[dict[Check, float], ...]:
        """The scores of every robot at this control step.

        Args:
            decision: its plans are imagined with confidence.
            seen: the observation `[B, ...]` that it was made after. It is kept, not copied.
            last: `[B, A]`, the commands in force before.
        """
        with _imagining(self._model):
            imagined, scores = decision.imagined, []
            for row, latent in enumerate(decision.latents):
                command = torch.from_numpy(decision.actions[row : row + 1].copy())
                now = _Moment(latent, seen.rows(row).images, last[row : row + 1].cpu(), command)
                scores.append(self._measure(row, decision, now, imagined[row]))
            return tuple(scores)

    def _measure(self, row: int, decision: Decision, now: _Moment, imagined: Any) -> dict[Check, float]:
        track, plan = self._tracks[row], decision.plans[row]
        found = self._surprises(track, now)
        if self._has_confidence:
            if plan is not None and plan is not track.plan:
                track.at_worst = float(self._model.error_bound(imagined, _AT_WORST).flatten()[-1])
            found[Check.DISAGREEMENT] = track.at_worst
        if self._has_novelty:
            found[Check.NOVELTY] = float(self._model.novelty(now.latent))
        for check, recent in track.recent.items():
            # A number that is none is the worst of all.
            recent.append(math.inf if math.isnan(found[check]) else found[check])
            found[check] = sum(recent) / self._window
        found[Check.STALL] = _stall(track, decision, row, self._model.reached_distance)
        track.past.append(now)
        track.ahead, track.plan = imagined, plan
        return {check: found[check] for check in self.checks}

    def _surprises(self, track: _Track, now: _Moment) -> dict[Check, float]:
        """How far what is observed now is from what was imagined before."""
        found = {check: 0.0 for check in (Check.SURPRISE, Check.DRIFT, Check.MOTION, Check.STILLNESS)}
        if not track.past:
            return found
        before = track.past[-1]
        ahead = self._imagined(before.latent, [before.command]) if track.ahead is None else track.ahead
        expected = float(self._model.reached_distance)
        if self._has_confidence:
            expected = float(self._model.error_bound(ahead, _EXPECTED).flatten()[0])
        found[Check.SURPRISE] = float(self._model.distance(ahead, now.latent).flatten()[0]) / max(expected, _LEAST)
        if len(track.past) == DRIFT_STEPS:
            long_ahead = self._imagined(track.past[0].latent, [moment.command for moment in track.past])
            drift = float(self._model.distance(long_ahead, now.latent).flatten()[-1])
            found[Check.DRIFT] = math.inf if math.isnan(drift) else drift
        if self._has_motion:
            imagined, felt = (self._model.proprioception(of) for of in (ahead, now.latent))
            found[Check.MOTION] = float((imagined[0, 0, 0] - felt[0]).norm())
        found[Check.STILLNESS] = self._moved(before, now) / (_changed(before.images, now.images) + _NO_CHANGE)
        return found

    def _imagined(self, latent: Any, commands: Iterable[Tensor]) -> Any:
        """Latents `[1, 1, H', ...]` after each of H' `commands [1, A]`."""
        actions = torch.stack(list(commands), dim=1)[:, None]
        return self._model.imagine(latent, actions.to(getattr(self._model, "device", torch.device("cpu"))))

    def _moved(self, before: _Moment, now: _Moment) -> float:
        """How far the robot moved, as it felt [standard deviations], or else as it was told to [action ranges]."""
        if self._has_motion:
            was, felt = (self._model.proprioception(of.latent) for of in (before, now))
            return float((felt - was).norm())
        told = before.command - self._limits.rest(before.before)
        return float((told / self._limits.span).norm())


def _changed(before: Mapping[str, NDArray[np.uint8]], now: Mapping[str, NDArray[np.uint8]]) -> float:
    """Mean absolute change of the image `[H, W, 3]` that changed least [of 255]."""
    return min(float(np.abs(now[name].astype(np.int16) - before[name]).mean()) for name in now)


def _stall(track: _Track, decision: Decision, row: int, near: float) -> float:
    distance, sub_goal = float(decision.distance[row]), int(decision.sub_goal[row])
    is_nearer = distance < (1 - _PROGRESS) * track.best
    if sub_goal != track.sub_goal or is_nearer or distance <= near:
        track.best = distance if sub_goal != track.sub_goal else min(distance, track.best)
        track.waited = 0
    else:
        track.waited += 1
    track.sub_goal = sub_goal
    return float(track.waited)


def highest(scores: Iterable[Mapping[Check, float]]) -> dict[Check, float]:
    """The largest value of every score over a run."""
    largest: dict[Check, float] = {}
    for each in scores:
        for check, value in each.items():
            largest[check] = max(largest.get(check, -math.inf), value)
    return largest


@contextlib.contextmanager
def _imagining(model: Any) -> Iterator[None]:
    """In here, the model imagines with confidence if it can, and in single precision. A search need not.

    Of a single sample, autocast to bfloat16 takes longer than the computation.
    """
    before = getattr(model, "precision", None)
    if before is not None:
        model.precision = torch.float32
    try:
        with imagining_with_confidence(model):
            yield
    finally:
        if before is not None:
            model.precision = before
