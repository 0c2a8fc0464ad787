"""Push, pick and place, and open drawers with an arm (`env=arm_push`, `env=arm_pick_place`, `env=arm_drawer`)."""

from __future__ import annotations

from envs.arm.config import ArmConfig
from envs.arm.tasks import ArmTask
from envs.arm.world import ArmWorld
from envs.protocol import GoalEnv
from envs.registry import EnvFamily


class ArmEnv(GoalEnv):
    """A gripper over a table, with cubes and a drawer. `ArmWorld` describes actions, and `ArmTask` success."""

    def __init__(self, config: ArmConfig) -> None:
        world = ArmWorld(config)
        super().__init__(config.full_name, world, ArmTask(world, config))


FAMILY = EnvFamily(ArmConfig, ArmEnv)
