"""Clips of a world: pairs of possible and impossible ones, or possible ones alone to learn from.

Shapes: `T` rows of a clip, `H, W` image height and width, `P` proprioception, `N` state.
"""

from __future__ import annotations

import abc
import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs.push import PushWorld
from envs.violations import passive, pushing
from envs.violations.scene import Clip, Crossing, Pair
from envs.violations.stage import StageWorld
from envs.world import Floats, Pixels, World
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.spec import EnvironmentSpec

VISIBLE, HIDDEN = "visible", "hidden"
PASSIVE: Final = {
    "vanish": passive.vanish,
    "teleport": passive.teleport,
    "colour": passive.colour,
    "shape": passive.shape,
    "wall": passive.wall,
    "collision": passive.collision,
    "floating": passive.floating,
    "motion": passive.motion,
}
ACTIVE: Final = {"contact": pushing.contact, "command": pushing.command}
# A screen that hides where one thing hits another would hide whether there is one to be hit.
_NEVER_HIDDEN: Final = "motion"
_DRAWS: Final = 1000  # far more than any scene needs


@dataclasses.dataclass(frozen=True)
class Condition:
    """A kind of scene.

    Attributes:
        property: what physics is about, such as `vanish`.
        variant: `visible`, or `hidden` for a break behind a screen.
    """

    property: str
    variant: str


@dataclasses.dataclass(frozen=True)
class LabelledPair:
    """A pair, the condition that it is of, and the number of its scene within the condition."""

    condition: Condition
    scene: int
    pair: Pair


class ClipMaker(abc.ABC):
    """Makes the clips of one world. A scene depends on the seed, its condition and its number alone.

    Args:
        world: the world, which draws the clips.
        name: name of the environment in recordings.
        rows: frames of a clip, T.
    """

    conditions: tuple[Condition, ...]

    def __init__(self, world: World, name: str, rows: int) -> None:
        self.world, self.name, self.rows = world, name, rows

    @abc.abstractmethod
    def draw(self, condition: Condition, rng: np.random.Generator) -> Crossing | None:
        """A random scene of `condition`, None for one that cannot be used."""

    def choose(self, properties: Sequence[str]) -> tuple[Condition, ...]:
        """The conditions of `properties`, of all if there are none. Raises UserError for an unknown one."""
        known = list(dict.fromkeys(condition.property for condition in self.conditions))
        for name in properties:
            if name not in known:
                raise UserError(choices_message("property", name, known))
        return tuple(c for c in self.conditions if not properties or c.property in properties)

    def pairs(self, conditions: Sequence[Condition], scenes: int, seed: int) -> Iterator[LabelledPair]:
        """`scenes` scenes of each of `conditions`, with two pairs each."""
        for condition in conditions:
            for scene in range(scenes):
                for pair in self._crossing(condition, (seed, 0, scene)).pairs:
                    yield LabelledPair(condition, scene, pair)

    def possible(self, conditions: Sequence[Condition], clips: int, seed: int) -> Iterator[Clip]:
        """`clips` possible clips of scenes that `pairs` never draws, whatever its seed. All conditions take turns."""
        for index in range(clips):
            turn, number = divmod(index, len(conditions))
            crossing = self._crossing(conditions[number], (seed, 1, turn))
            yield crossing.second if turn % 2 else crossing.first

    def _crossing(self, condition: Condition, seeds: tuple[int, ...]) -> Crossing:
        # A checksum of the names, so that a scene does not depend on which other conditions are asked for.
        own = zlib.crc32(f"{condition.property} {condition.variant}".encode())
        rng = np.random.default_rng([own, *seeds])
        for _ in range(_DRAWS):
            crossing = self.draw(condition, rng)
            if crossing is not None and crossing.has_margins:
                return crossing
        raise AssertionError(f"a scene of {condition} has room in {self.rows} rows")

    def show(self, clip: Clip) -> tuple[dict[str, Pixels], NDArray[np.float32]]:
        """Images of a clip by camera, `[T, H, W, 3]`, and what the robot feels in it, `[T, P]`."""
        frames: dict[str, list[Pixels]] = {camera.name: [] for camera in self.world.cameras}
        proprio = []
        for state in clip.states:
            self.world.set_state(state)
            proprio.append(self.world.proprio())
            for camera in self.world.cameras:
                frames[camera.name].append(self.world.picture(camera))
        return {camera: np.stack(pictures) for camera, pictures in frames.items()}, np.stack(proprio)

    @property
    def spec(self) -> EnvironmentSpec:
        """Specification of the world."""
        world = self.world
        return EnvironmentSpec(
            env=self.name,
            cameras=world.cameras,
            control_step_s=world.control_step_s,
            action=world.action_spec,
            proprio_size=world.proprio_size,
            state_size=len(world.get_state()),
            simulator=world.simulator,
        )


class StageClips(ClipMaker):
    """Clips of the stage, in which nobody acts."""

    conditions = tuple(
        Condition(name, variant)
        for name in PASSIVE
        for variant in (VISIBLE, HIDDEN)
        if name != _NEVER_HIDDEN or variant == VISIBLE
    )

    def __init__(self, image_size: int, rows: int) -> None:
        self._stage = StageWorld(image_size)
        super().__init__(self._stage, "stage", rows)

    def draw(self, condition: Condition, rng: np.random.Generator) -> Crossing | None:
        is_hidden = condition.variant == HIDDEN
        crossing = PASSIVE[condition.property](self._stage, rng, self.rows, is_hidden)
        return None if is_hidden and crossing.has_margins and self._shows(crossing) else crossing

    def _shows(self, crossing: Crossing) -> bool:
        """Whether something of the break can be seen in its first frame."""
        at = crossing.break_row
        return any(
            not np.array_equal(self._picture(pair.possible.states[at]), self._picture(pair.impossible.states[at]))
            for pair in crossing.pairs
        )

    def _picture(self, state: Floats) -> Pixels:
        """Image `[H, W, 3]` of a state `[N]`."""
        self._stage.set_state(state)
        return self._stage.picture(self._stage.cameras[0])


class PushClips(ClipMaker):
    """Clips of pushing, in which a robot acts."""

    conditions = tuple(Condition(name, VISIBLE) for name in ACTIVE)

    def __init__(self, image_size: int, rows: int) -> None:
        self._push: PushWorld = pushing.make_world(image_size)
        super().__init__(self._push, "push", rows)

    def draw(self, condition: Condition, rng: np.random.Generator) -> Crossing | None:
        return ACTIVE[condition.property](self._push, rng, self.rows)


WORLDS: Final[dict[str, Callable[[int, int], ClipMaker]]] = {"stage": StageClips, "push": PushClips}
