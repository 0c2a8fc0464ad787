"""Environments behind one protocol (`envs.protocol`), their rendering, and the recording of episodes."""

from worldmodel.core.interrupt import until_main

until_main()  # before anything large is imported

from envs.graphics import choose_backend  # noqa: E402
from envs.registry import register_all  # noqa: E402

choose_backend()  # must happen before anything imports mujoco
register_all()
