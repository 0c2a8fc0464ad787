"""Optimisers by name: a new one is one new file and one line here."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from configs.command import UserError, choices_message, from_config
from planning.cem import CEM, CEMConfig
from planning.random_shooting import RandomShooting, RandomShootingConfig
from planning.types import Optimiser

OPTIMISERS: dict[str, tuple[type[Any], type[Any]]] = {
    "cem": (CEM, CEMConfig),
    "random_shooting": (RandomShooting, RandomShootingConfig),
}


def make_optimiser(name: str, options: DictConfig | dict[str, Any]) -> Optimiser:
    """The optimiser `name` with its `options`. Raises UserError for an unknown name or option."""
    if name not in OPTIMISERS:
        raise UserError(choices_message("planner", name, OPTIMISERS))
    optimiser, config = OPTIMISERS[name]
    made: Optimiser = optimiser(from_config(config, options, f"planner {name}"))
    return made
