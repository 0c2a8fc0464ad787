"""Push, pick and place, and open drawers with an arm (`env=arm_push`, `env=arm_pick_place`, `env=arm_drawer`)."""

from __future__ import annotations

from envs.arm.config import ArmConfig
from envs.arm.hand import HandWorld
from envs.arm.tasks import ArmTask
from envs.arm.world import ArmWorld
from envs.protocol import GoalEnv
from envs.registry import EnvFamily


class ArmEnv(GoalEnv):
    """A gripper over a table, with cubes and a drawer. `ArmWorld` describes actions, and `ArmTask` success."""

    def __init__(self, config: ArmConfig) -> None:
        world = make_world(config)
        super().__init__(config.full_name, world, ArmTask(world, config))


def make_world(config: ArmConfig) -> ArmWorld:
    """The world with the body that `config` names."""
    if config.body == "hand":
        return HandWorld(config)
    from envs.arm.jaco import JacoWorld  # loads dm_control, which takes seconds

    return JacoWorld(config)


FAMILY = EnvFamily(ArmConfig, ArmEnv)
