"""`env=cart`: bring a cart on a rail to its position in a goal image."""

import dataclasses

import mujoco
import numpy as np

from envs.cameras import CameraConfig
from envs.exploration import CommandExplorer
from envs.measures import make_criterion
from envs.mujoco_world import MujocoWorld
from envs.protocol import GoalEnv
from envs.registry import EnvFamily
from envs.task import CriteriaTask
from envs.view import Marker, MarkerPaths
from worldmodel.core.spec import ActionSpec

XML = """<mujoco>
  <option timestep="0.01"/>
  <visual><headlight ambient="0.5 0.5 0.5" diffuse="0.5 0.5 0.5"/></visual>
  <worldbody>
    <camera name="front" pos="0 -1.1 0.1" xyaxes="1 0 0 0 0 1" fovy="40"/>
    <geom type="box" size="0.6 0.02 0.01" rgba="0.4 0.4 0.4 1" contype="0" conaffinity="0"/>
    <geom type="box" pos="0 0.5 0" size="2 0.01 2" rgba="0.8 0.8 0.75 1" contype="0" conaffinity="0"/>
    <body name="cart" pos="0 0 0.06">
      <joint name="rail" type="slide" axis="1 0 0" range="-0.5 0.5" limited="true"/>
      <geom type="box" size="0.08 0.05 0.05" mass="0.5" rgba="0.8 0.2 0.1 1"/>
    </body>
  </worldbody>
  <actuator><velocity name="vx" joint="rail" kv="20" ctrlrange="-0.5 0.5"/></actuator>
</mujoco>"""


@dataclasses.dataclass(frozen=True)
class CartConfig:
    """Options of the environment.

    Attributes:
        image_size: height of the images [pixels]. They are twice as wide.
    """

    image_size: int = 32


class CartWorld(MujocoWorld):
    """The simulation of the cart. It takes ten actions a second, each a velocity [m/s]."""

    def __init__(self, config: CartConfig) -> None:
        camera = CameraConfig("front", config.image_size, 2 * config.image_size, camera="front")
        action = ActionSpec(low=(-0.5,), high=(0.5,), units=("m/s",), names=("vx",))
        super().__init__(mujoco.MjModel.from_xml_string(XML), 0.1, [camera], action)

    def begin(self, rng: np.random.Generator) -> None:
        self.set_state(np.array([rng.uniform(-0.4, 0.4), 0.0]))  # qpos, qvel


def make(config: CartConfig) -> GoalEnv:
    world = CartWorld(config)
    success = {"of": "joint:rail", "unit": "cm", "tolerance": 3, "min_change": 10}
    task = CriteriaTask(
        [make_criterion(success, world.model)],
        lambda rng: CommandExplorer(world.action_spec, world.control_step_s, rng),
        MarkerPaths(world.model, world.views[0], [Marker(world.model, "cart")]),
    )
    return GoalEnv("cart", world, task)


FAMILY = EnvFamily(CartConfig, make)
