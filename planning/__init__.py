"""Planning toward goals with a given world model, for simulators and robots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worldmodel.core.interrupt import until_main

until_main()  # before anything large is imported

if TYPE_CHECKING:
    from planning.planner import Planner
    from planning.robot import RobotController

__all__ = ["Planner", "RobotController"]


def __getattr__(name: str) -> Any:
    """Import `Planner` and `RobotController` when they are used, because commands need less."""
    if name == "Planner":
        from planning.planner import Planner

        return Planner
    if name == "RobotController":
        from planning.robot import RobotController

        return RobotController
    raise AttributeError(f"module 'planning' has no attribute '{name}'")
