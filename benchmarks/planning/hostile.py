"""A robot whose model, clock, cameras and commands are hostile, and a count of the commands that break its limits.

Shapes: `B` robots, `A` action dimensions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planning.controller import Controller
from planning.faults import FaultKind
from planning.gate import Gate, GateConfig
from planning.guarded import Read, act_guarded
from planning.inputs import read_images, read_numbers
from planning.objectives import ObjectiveConfig
from planning.registry import make_optimiser
from planning.strategy import ControllerConfig, Strategy
from worldmodel.core.goal import Goal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import HOLD, ActionSpec, EnvironmentSpec, one_camera
from worldmodel.core.tensor_record import TensorRecord

# A joint angle that holds, a wheel, a gripper, and a slide with a rest of its own. The bounds 0.2 and 0.1 are rounded
# up in single precision.
ARM: Final = ActionSpec(
    (-100.0, -0.2, 0.0, 0.1),
    (80.0, 0.2, 1.0, 0.7),
    ("deg", "m/s", "", "m"),
    rest=(HOLD, "zero", HOLD, 0.3),
    kinds=("continuous", "continuous", "binary", "continuous"),
    max_rate=(50.0, 1.0, None, 0.7),
    hold_from=(0, None, 1, None),
)
SIZE: Final = 8
SPEC: Final = EnvironmentSpec("arm", one_camera(SIZE), 0.1, ARM, 2, 0, "none 1.0")
BAD: Final = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-38], np.float32)
_CLOCK_S: Final = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300, 1e-300)
_STAMPS: Final[tuple[Any, ...]] = (math.nan, math.inf, -1e300, 10**400, "now", True, [], 1j, None)


@dataclasses.dataclass
class Count:
    """Commands, and how many of them broke which rule."""

    commands: int = 0
    rested: int = 0
    not_finite: int = 0
    outside: int = 0
    too_fast: int = 0
    between: int = 0
    not_rest: int = 0

    @property
    def violations(self) -> int:
        """Commands that broke a rule, with one that broke two counted twice."""
        return self.not_finite + self.outside + self.too_fast + self.between + self.not_rest

    def add(self, commands: NDArray[np.float32], last: NDArray[np.float32], must_rest: NDArray[np.bool_]) -> None:
        """Judge `commands [B, A]` after `last [B, A]`. In the rows `must_rest [B]` they have to be rest.

        The rules are written once more here, in double precision and for this one arm, and share no code with the gate.
        """
        low, high = np.array(ARM.low), np.array(ARM.high)
        given, before = commands.astype(np.float64), np.clip(last.astype(np.float64), low, high)
        change = np.abs(given - before)
        self.commands += len(commands)
        self.rested += int(must_rest.sum())
        self.not_finite += int((~np.isfinite(given)).any(1).sum())
        self.outside += int(((given < low) | (given > high)).any(1).sum())
        self.too_fast += int((change[:, [0, 1, 3]] > np.array([5.0, 0.1, 0.07])).any(1).sum())
        self.between += int((~np.isin(given[:, 2], (0.0, 1.0))).sum())
        # The angle and the gripper stay, the wheel slows down, and the slide goes home, no faster than is allowed.
        rests = change[:, 0] <= 1e-5 * np.abs(before[:, 0])
        rests &= given[:, 2] == (before[:, 2] > 0.5)
        for dimension, home, most in ((1, 0.0, 0.1), (3, 0.3, 0.07)):
            away = np.abs(before[:, dimension] - home)
            rests &= np.abs(given[:, dimension] - home) <= np.maximum(away - most, 0) + 1e-6
        self.not_rest += int((must_rest & ~rests).sum())


def sweep(commands: int, seed: int = 0, rows: int = 2_000) -> Count:
    """At least so many commands of the gate's check, `rows` at a time, each after the one before."""
    rng, gate, count = np.random.default_rng(seed), Gate(SPEC, GateConfig()), Count()
    low, high = ARM.bounds
    last = np.clip(100 * rng.normal(size=(rows, ARM.size)).astype(np.float32), low, high)
    while count.commands < commands:
        # From sound ones over those just outside to nonsense. Of the sound ones many are too fast.
        near = last + rng.normal(size=last.shape).astype(np.float32) * rng.choice([0.01, 1.0], (rows, 1))
        edges = np.where(rng.random(last.shape) < 0.5, np.nextafter(high, np.float32(np.inf)), low)
        kinds = rng.integers(0, 5, (rows, 1))
        near[:, 2] = rng.integers(0, 2, rows)
        reach = np.array([4.9, 0.09, 2, 0.06], np.float32)
        steady = np.clip(near, np.maximum(low, last - reach), np.minimum(high, last + reach))
        wanted = np.select([kinds <= 1, kinds == 2, kinds == 3], [steady, near, edges], rng.choice(BAD, last.shape))
        given, broken = gate.pass_actions(wanted.astype(np.float32), last)
        count.add(given, last, broken.any(1))
        last = given
    return count


@dataclasses.dataclass(frozen=True)
class Place(TensorRecord):
    """The latent state of `HostileModel`: a place `[..., 2]`."""

    place: Tensor


class HostileModel:
    """Imagines what makes sense, or NaN, infinities and huge numbers, or raises exceptions, by turns."""

    spec, reached_distance = SPEC, 0.1

    def __init__(self, seed: int) -> None:
        self._noise = torch.Generator().manual_seed(seed)
        self._rng = np.random.default_rng(seed)

    def _spoil(self, values: Tensor, share: float) -> Tensor:
        if self._rng.random() < 0.02:
            raise RuntimeError("out of memory")
        broken = torch.rand(values.shape, generator=self._noise) < share
        bad = torch.from_numpy(BAD)[torch.randint(len(BAD), values.shape, generator=self._noise)]
        return torch.where(broken, bad, values)

    def observe(self, previous: Any, observation: Observation, action: Tensor | None) -> Place:
        return Place(self._spoil(torch.from_numpy(observation.proprio), 0.01))

    def goal(self, goal: Goal) -> Place:
        return Place(torch.zeros(1, 2))

    def imagine(self, latent: Place, actions: Tensor) -> Place:
        ahead = latent.place[:, None, None] + 0.1 * actions[..., :2].cumsum(2)
        return Place(self._spoil(ahead, float(self._rng.choice([0.0, 0.05, 1.0]))))

    def distance(self, latents: Place, goal: Place) -> Tensor:
        return self._spoil(latents.place.square().sum(-1), 0.02)


class HostileClock:
    """Goes on by some hundredths of a second, stands, jumps, goes back, shows no number, or raises."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._now = rng, 100.0

    def __call__(self) -> float:
        self._now += self._rng.exponential(0.02)
        draw = self._rng.random()
        if draw < 0.02:
            return float(self._rng.choice(_CLOCK_S))
        if draw < 0.03:
            raise OSError("no clock")
        if draw < 0.05:
            self._now += 1.0
        return self._now

    def stamp(self) -> Any:
        if self._rng.random() < 0.05:
            return _STAMPS[self._rng.integers(len(_STAMPS))]
        return self._now - 0.05 * self._rng.random()


class HostileRobot:
    """Shows noise, the same frame again, frames of other kinds, and readings and commands that are no numbers."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._frame = rng, np.zeros((SIZE, SIZE, 3), np.uint8)

    def read(self, last: NDArray[np.float32], is_first: bool) -> Read:
        """What it shows, and at times the command `[A]` in force. Raises UserError for nonsense."""
        rng = self._rng
        if rng.random() < 0.7:
            self._frame = rng.integers(0, 256, self._frame.shape, np.uint8)
        if is_first:  # where a robot begins, somebody knows what it holds
            return Observation({"camera": self._frame[None]}, np.zeros((1, 2), np.float32)), last[None]
        shown: list[Any] = [self._frame, self._frame[1:], None, "frame", self._frame.astype(float)]
        image = shown[rng.choice(len(shown), p=[0.96, 0.01, 0.01, 0.01, 0.01])]
        proprio = rng.normal(size=2) if rng.random() < 0.98 else rng.choice(BAD, 2)
        pictures = {name: pixels[None] for name, pixels in read_images(image, SPEC).items()}
        given = None if rng.random() < 0.9 else read_numbers(last, (ARM.size,), "command")[None]
        return Observation(pictures, read_numbers(proprio, (2,), "proprio")[None]), given


def live(steps: int, seed: int = 0) -> tuple[Count, set[FaultKind]]:
    """So many control steps of one robot, all of it hostile, and the kinds of fault that stopped it.

    A stopped robot is resumed after some steps, in which its command has to be rest.
    """
    rng = np.random.default_rng(seed)
    clock, robot = HostileClock(rng), HostileRobot(rng)
    stop_on = frozenset(FaultKind) if seed % 2 else GateConfig().stop_on
    gate = Gate(SPEC, GateConfig(deadline_s=0.05, frozen_after=3, most_age_s=0.2, stop_on=stop_on), clock)
    optimiser = make_optimiser("cem", {"samples": 6, "elites": 2, "iterations": 2, "action_repeat": 1})
    strategy = Strategy(optimiser, ObjectiveConfig(), ControllerConfig(3, execute=1 + seed % 2))
    controller = Controller(HostileModel(seed), strategy, [Goal()], torch.device("cpu"))
    count, stopped_by, last = Count(), set[FaultKind](), np.array([[0, 0, 0, 0.3]], np.float32)
    for step in range(steps):
        read = functools.partial(robot.read, last[0], step == 0)
        decision, _, _ = act_guarded(gate, controller, SPEC, read, clock.stamp())
        count.add(decision.actions, last, np.array([gate.fault is not None]))
        last = decision.actions
        if gate.stopped is not None:
            stopped_by.add(gate.stopped.kind)
            if rng.random() < 0.3:
                gate.resume()
    return count, stopped_by
