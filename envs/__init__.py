"""The world: environments behind one protocol (`envs.protocol`), their rendering, and recording from them."""

from envs.graphics import choose_backend
from envs.registry import register_all

choose_backend()  # must happen before anything imports mujoco
register_all()
