"""The world: environments behind one protocol (`envs.protocol`), their rendering, and recording from them."""

from envs.graphics import choose_backend

choose_backend()  # must happen before anything imports mujoco
