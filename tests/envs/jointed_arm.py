"""An arm as real robots are: two cameras of different shapes, absolute joint targets, a gripper, limits on rates.

It is not shipped. Tests make it known as a package of the user's would: `with known():` in this process,
`install(folder)` for commands in another one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import textwrap
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.cameras import CameraConfig
from envs.exploration import CommandExplorer
from envs.measures import PointPosition
from envs.mujoco_world import MujocoWorld
from envs.protocol import Floats, GoalEnv, Metric
from envs.registry import EnvFamily
from envs.task import CriteriaTask, Criterion
from envs.view import Marker, MarkerPaths
from worldmodel.core import registry
from worldmodel.core.spec import BINARY, CONTINUOUS, HOLD, ActionSpec

NUM_JOINTS = 6
REACH = 1.2  # of every joint, to either side [rad]
JOINT_RATE = 2.0  # [rad/s]
OPEN = 0.03  # how far the fingers go apart [m]
ARM = ActionSpec(
    low=(*[-REACH] * NUM_JOINTS, 0.0),
    high=(*[REACH] * NUM_JOINTS, OPEN),
    units=(*["rad"] * NUM_JOINTS, "m"),
    names=(*[f"joint_{i}" for i in range(NUM_JOINTS)], "grip"),
    rest=(HOLD,) * (NUM_JOINTS + 1),
    kinds=(*[CONTINUOUS] * NUM_JOINTS, BINARY),
    max_rate=(*[JOINT_RATE] * NUM_JOINTS, None),
    hold_from=tuple(range(NUM_JOINTS + 1)),  # proprioception begins with the joints and the opening
)
_LINKS = ("0 0 1", "0 1 0", "0 1 0", "1 0 0", "0 1 0", "1 0 0")  # axes of the joints, from the base to the hand


def _xml() -> str:
    body = textwrap.dedent("""
        <body name="finger" pos="0.05 0.02 0">
          <joint name="grip" type="slide" axis="0 1 0" range="0 0.03" limited="true" damping="2" armature="0.01"/>
          <geom type="box" pos="0.03 0 0" size="0.03 0.006 0.012" rgba="0.9 0.8 0.1 1" mass="0.02"/>
        </body>
        <geom type="box" pos="0.08 -0.02 0" size="0.03 0.006 0.012" rgba="0.9 0.8 0.1 1" mass="0.02"/>
        <geom name="hand" type="box" pos="0.04 0 0" size="0.02 0.05 0.02" rgba="0.8 0.2 0.2 1" mass="0.05"/>
        <site name="grip" pos="0.1 0 0"/>
        <camera name="wrist" pos="-0.06 0 0.09" xyaxes="0 -1 0 0.6 0 0.8" fovy="70"/>
    """)
    for number in reversed(range(NUM_JOINTS)):
        place = "0 0 0.25" if number == 0 else "0.12 0 0"
        body = (
            f'<body pos="{place}"><joint name="joint_{number}" axis="{_LINKS[number]}" damping="6" armature="0.1" '
            f'range="{-REACH} {REACH}" limited="true"/>'
            f'<geom type="capsule" fromto="0 0 0 0.12 0 0" size="0.03" rgba="0.2 {0.1 + 0.1 * number:.1f} 0.8 1" '
            f'mass="0.1"/>{body}</body>'
        )
    motors = "".join(f'<position joint="joint_{i}" kp="60" ctrlrange="{-REACH} {REACH}"/>' for i in range(NUM_JOINTS))
    return f"""<mujoco>
      <compiler angle="radian"/>
      <option timestep="0.01" integrator="implicitfast" gravity="0 0 0"/>
      <visual><quality shadowsize="0" offsamples="4" numslices="8" numstacks="4" numquads="1"/>
        <headlight ambient="0.5 0.5 0.5" diffuse="0.4 0.4 0.4" specular="0 0 0"/></visual>
      <asset><texture name="tiles" type="2d" builtin="checker" rgb1="0.7 0.7 0.7" rgb2="0.5 0.55 0.5" width="32"
        height="32"/><material name="tiles" texture="tiles" texrepeat="6 6" specular="0"/></asset>
      <default><geom contype="0" conaffinity="0"/></default>
      <worldbody>
        <camera name="front" pos="1.25 0 1.45" xyaxes="0 1 0 -0.7 0 0.75" fovy="50"/>
        <geom type="plane" size="2 2 0.1" material="tiles"/>
        {body}
      </worldbody>
      <actuator>{motors}<position joint="grip" kp="30" ctrlrange="0 {OPEN}"/></actuator>
    </mujoco>"""


@dataclasses.dataclass(frozen=True)
class ArmConfig:
    """How it is seen.

    Attributes:
        front: height of the front camera's pictures [pixels]; they are wider than high, by 4 to 3.
        wrist: height of the wrist camera's [pixels]; they are higher than wide, by 5 to 4. None: there is none.
    """

    front: int = 48
    wrist: int | None = 40

    @property
    def cameras(self) -> tuple[CameraConfig, ...]:
        front = CameraConfig("front", self.front, self.front * 4 // 3, camera="front")
        if self.wrist is None:
            return (front,)
        return front, CameraConfig("wrist", self.wrist, self.wrist * 4 // 5, camera="wrist")


class ArmWorld(MujocoWorld):
    """Six joints that go where they are told, at 10 Hz, and a gripper."""

    def __init__(self, config: ArmConfig) -> None:
        super().__init__(mujoco.MjModel.from_xml_string(_xml()), 0.1, config.cameras, ARM)

    def begin(self, rng: np.random.Generator) -> None:
        """A random pose, the gripper open."""
        pose = np.append(rng.uniform(-0.7 * REACH, 0.7 * REACH, NUM_JOINTS), OPEN)
        self.set_state(np.concatenate([pose, np.zeros(self.model.nv)]))


class ArmEnv(GoalEnv):
    """The task: the hand within 4 cm of where the goal shows it."""

    def __init__(self, config: ArmConfig | None = None) -> None:
        world = ArmWorld(config or ArmConfig())
        position = PointPosition(world.model, "grip")
        criterion = Criterion(
            Metric("hand", "cm", 4.0),
            lambda states, goal: 100 * position.error(position.values(states), position.values(goal)),
            min_change=10.0,
        )
        task = CriteriaTask(
            [criterion],
            lambda rng: CommandExplorer(ARM, world.control_step_s, rng),
            MarkerPaths(world.model, world.views[0], [Marker(world.model, "grip")]),
        )
        super().__init__("jointed", world, task)


FAMILY = EnvFamily(ArmConfig, ArmEnv)


def add() -> None:
    """Make `env=jointed` known in this process; what the entry point of a package would name."""
    registry.register("env", "jointed", FAMILY)


@contextlib.contextmanager
def known() -> Iterator[None]:
    """`env=jointed` is known in this process for a while; other tests list the environments that there are."""
    with mock.patch.dict(registry._registered["env"]):
        add()
        yield


def install(folder: Path) -> Path:
    """Make `env=jointed` known to every process with `folder` and this repository on its path. Returns `folder`."""
    metadata = folder / "arm_for_tests-0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: arm-for-tests\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[worldmodel.plugins]\njointed = tests.envs.jointed_arm:add\n")
    return folder


def broken_limits(
    spec: ActionSpec, control_step_s: float, last: NDArray[np.float64], commands: NDArray[np.float32]
) -> list[str]:
    """What is wrong with `commands [T, A]` after the command `last [A]`, a line for each kind of mistake."""
    taken = commands.astype(np.float64)
    low, high = np.array(spec.low), np.array(spec.high)
    changes = np.abs(np.diff(taken, axis=0, prepend=np.asarray(last, np.float64)[None]))
    most = np.array([np.inf if rate is None else rate * control_step_s for rate in spec.max_rate])
    binary = np.array([kind == BINARY for kind in spec.kinds])
    between = (commands != spec.bounds[0]) & (commands != spec.bounds[1]) & binary
    found = {
        "not finite": ~np.isfinite(taken),
        "outside the bounds": (taken < low) | (taken > high),
        "neither open nor closed": between,
        "faster than allowed": changes > most * (1 + 1e-6),
    }
    return [
        f"{name}: {int(bad.sum())}, first at step {np.argwhere(bad)[0][0]}" for name, bad in found.items() if bad.any()
    ]


def rest_after(spec: ActionSpec, last: Floats) -> Floats:
    """The command under which the robot stays as it is, `[A]`, where `last [A]` is in force."""
    low, high = (np.array(bound, np.float64) for bound in (spec.low, spec.high))
    rules = zip(spec.rest, last, np.clip(0.0, low, high), strict=True)
    return np.array([held if rest == HOLD else zero if isinstance(rest, str) else rest for rest, held, zero in rules])
