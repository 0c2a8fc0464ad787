"""A parallel gripper on three slides, as the body of an arm. It is the fastest to simulate and to draw."""

from __future__ import annotations

from envs.arm.config import ArmConfig
from envs.arm.scene import GRIP, read_part
from envs.arm.world import REACH, ArmWorld
from envs.world import Floats

_SLIDES = ("hand_x", "hand_y", "hand_z")
_FINGERS = ("finger_left", "finger_right")


class HandWorld(ArmWorld):
    """The controls of the simulator are the action itself, so that many sequences are simulated at once."""

    def __init__(self, config: ArmConfig) -> None:
        super().__init__(config, read_part("arm_hand.xml"))
        self._slides, self._fingers = (
            [self.model.joint(name).qposadr[0] for name in names] for names in (_SLIDES, _FINGERS)
        )
        self._grip = self.model.actuator(GRIP).id

    def fingers(self) -> float:
        return float(self.data.actuator_length[self._grip])

    def commanded_fingers(self) -> float:
        return float(self.data.act[0])

    def pose(self, position: Floats, fingers: float) -> None:
        self.data.qpos[self._slides] = position - [0, 0, REACH[0][2]]
        self.data.qpos[self._fingers] = self.data.act[0] = fingers
