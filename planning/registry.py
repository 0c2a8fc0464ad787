"""Optimisers by name (a new one is one new file and one line here), and planners from a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from planning.controller import ControllerConfig
from planning.objectives import ObjectiveConfig
from planning.optimisers.cem import CEM, CEMConfig
from planning.optimisers.random_shooting import RandomShooting, RandomShootingConfig
from planning.types import Optimiser
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.options import from_config

OPTIMISERS: dict[str, tuple[type[Any], type[Any]]] = {
    "cem": (CEM, CEMConfig),
    "random_shooting": (RandomShooting, RandomShootingConfig),
}


@dataclasses.dataclass(frozen=True)
class Planner:
    """All that makes a controller but the model: how actions are sought, judged and executed."""

    optimiser: Optimiser
    objective: ObjectiveConfig
    controller: ControllerConfig


def make_optimiser(name: str, options: Mapping[str, Any]) -> Optimiser:
    """The optimiser `name` with its `options`. Raises UserError for an unknown name or option."""
    if name not in OPTIMISERS:
        raise UserError(choices_message("planner", name, OPTIMISERS))
    optimiser, config = OPTIMISERS[name]
    made: Optimiser = optimiser(from_config(config, options, f"planner {name}"))
    return made


def make_planner(config: Mapping[str, Any], history: int, seed: int) -> Planner:
    """From the configuration group `planner`, for a model that wants `history` frames. Raises UserError."""
    controller = {"horizon": config["horizon"], "execute": config["execute"], "history": history, "seed": seed}
    return Planner(
        make_optimiser(config["name"], config["options"]),
        from_config(ObjectiveConfig, config["objective"], "planner objective"),
        from_config(ControllerConfig, controller, "planner"),
    )
