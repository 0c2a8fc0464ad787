"""Statistics of control that grow when something is wrong, with one value per control step and robot.

    surprise        distance(imagined one step ahead, observed) / what the model expects of it     (running mean)
    motion          distance(imagined one step ahead, felt), in the readings' standard deviations     (running mean)
    disagreement    the bound that the model gives for the error at the end of its plan            (running mean)
    novelty         how unlike the training's images the observed one is                           (running mean)
    stall           control steps since the goal last came nearer by a twentieth of its distance

Every model is surprised and stalls. Motion needs one that imagines proprioception: a goal's distance hardly sees the
robot itself. Disagreement needs one with confidence, and novelty one that knows its images.

Shapes: `A` action dimensions, `H` control steps of a plan.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from planning.alarms import Check
from planning.decision import Decision
from planning.objectives import imagining_with_confidence
from planning.types import Model, Plan

# Smaller changes of the distance are no progress: keypoints of an image in which nothing moves differ by so much.
_PROGRESS: Final = 0.05
# The level of the bound on an error that counts as expected, and the one for the end of a plan.
_EXPECTED, _AT_WORST = 0.5, 0.9
_LEAST: Final = 1e-6  # an expectation of zero would make everything infinitely surprising


@dataclasses.dataclass
class _Track:
    """What is remembered of one robot.

    Attributes:
        recent: the last values of each running mean.
        latent: latent `[1, ...]` of the last observation, None if there was none.
        ahead: what was imagined from there under `planned [1, A]`, latents `[1, 1, H', ...]`, or None.
        given: command `[1, A]` that was given instead of the decided one, or None.
        plan: the last plan, and the bound for its end.
    """

    recent: dict[Check, collections.deque[float]]
    latent: Any = None
    ahead: Any = None
    planned: Tensor | None = None
    given: Tensor | None = None
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
        self._tracks[row] = _Track({check: collections.deque(maxlen=self._window) for check in self.checks})

    def forget(self, row: int) -> None:
        """There is a gap in what robot `row` saw: the next observation follows from nothing."""
        track = self._tracks[row]
        track.latent = track.ahead = track.given = None

    def was_given(self, row: int, command: Tensor) -> None:
        """Robot `row` was given `command [1, A]` instead of the one decided last."""
        self._tracks[row].given = command

    @torch.no_grad()
    def measure(self, decision: Decision) -> tuple[dict[Check, float], ...]:
        """The scores of every robot at this control step. The decision's plans are imagined with confidence."""
        with _imagining(self._model):
            imagined = decision.imagined
            return tuple(self._measure(row, decision, imagined[row]) for row in range(len(decision.latents)))

    def _measure(self, row: int, decision: Decision, imagined: Any) -> dict[Check, float]:
        track, latent, plan = self._tracks[row], decision.latents[row], decision.plans[row]
        found = self._surprises(track, latent)
        if self._has_confidence:
            if plan is not None and plan is not track.plan:
                track.at_worst = float(self._model.error_bound(imagined, _AT_WORST).flatten()[-1])
            found[Check.DISAGREEMENT] = track.at_worst
        if self._has_novelty:
            found[Check.NOVELTY] = float(self._model.novelty(latent))
        for check, value in found.items():
            # A number that is none is the worst of all.
            track.recent[check].append(math.inf if math.isnan(value) else value)
            found[check] = sum(track.recent[check]) / self._window
        found[Check.STALL] = _stall(track, decision, row, self._model.reached_distance)
        track.latent, track.ahead, track.plan, track.given = latent, imagined, plan, None
        track.planned = torch.from_numpy(decision.actions[row : row + 1].copy())
        return found

    def _surprises(self, track: _Track, latent: Any) -> dict[Check, float]:
        """How far what is observed now is from what was imagined one control step before."""
        ahead = self._imagined_before(track)
        if ahead is None:
            return {check: 0.0 for check in (Check.SURPRISE, Check.MOTION) if check in self.checks}
        expected = float(self._model.reached_distance)
        if self._has_confidence:
            expected = float(self._model.error_bound(ahead, _EXPECTED).flatten()[0])
        off = float(self._model.distance(ahead, latent).flatten()[0])
        found = {Check.SURPRISE: off / max(expected, _LEAST)}
        if self._has_motion:
            imagined, felt = (self._model.proprioception(of) for of in (ahead, latent))
            found[Check.MOTION] = float((imagined[0, 0, 0] - felt[0]).norm())
        return found

    def _imagined_before(self, track: _Track) -> Any:
        """What was imagined under the command that was given, latents `[1, 1, H', ...]`. None for nothing seen."""
        if track.latent is None or track.planned is None:
            return None
        is_as_planned = track.given is None or torch.equal(track.given.cpu(), track.planned)
        if is_as_planned and track.ahead is not None:
            return track.ahead
        command = track.planned if track.given is None else track.given
        return self._model.imagine(track.latent, command.to(_device_of(self._model))[:, None, None])


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


def _device_of(model: Any) -> torch.device:
    return getattr(model, "device", torch.device("cpu"))
