"""Optimisers by name, and strategies from a configuration.

A new optimiser is one new file and one line here. A package of the user registers its own by
`worldmodel.core.registry.register("optimiser", name, OptimiserEntry(make, config))`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from planning.choice import AUTO
from planning.objectives import ObjectiveConfig
from planning.optimisers.base import OptimiserEntry
from planning.policies.proposals import ProposalConfig
from planning.strategy import ControllerConfig, Strategy
from planning.types import Optimiser
from worldmodel.core.errors import UserError
from worldmodel.core.options import from_config
from worldmodel.core.registry import Registry

OPTIMISERS: Final = Registry[OptimiserEntry](
    "optimiser",
    "planner",
    {
        "adam": "planning.optimisers.adam:ENTRY",
        "cem": "planning.optimisers.cem:ENTRY",
        "gradient_cem": "planning.optimisers.gradient_cem:ENTRY",
        "icem": "planning.optimisers.icem:ENTRY",
        "mixed": "planning.optimisers.mixed:ENTRY",
        "mppi": "planning.optimisers.mppi:ENTRY",
        "predictive_sampling": "planning.optimisers.predictive_sampling:ENTRY",
        "random_shooting": "planning.optimisers.random_shooting:ENTRY",
    },
    OptimiserEntry,
)
# Memory of an imagined control step while it is computed, for activations of about 256 numbers [bytes].
_BYTES_PER_MOMENT = 1024
MOST_MOMENTS: Final = 2**22


def make_optimiser(name: str, options: Mapping[str, Any]) -> Optimiser:
    """The optimiser `name` with its `options`. Raises UserError for an unknown name or option."""
    entry = OPTIMISERS.get(name)
    return entry.make(from_config(entry.config, options, f"planner {name}"))


def make_strategy(config: Mapping[str, Any], seed: int) -> Strategy:
    """The strategy of the configuration group `planner`.

    Raises:
        UserError: for an option that is unknown or not acceptable, and for a search that would fill the memory.
    """
    if config["name"] == AUTO:
        raise UserError("planner=auto needs a checkpoint that says which planner is its best: choose one by its name")
    controller = {"horizon": config["horizon"], "execute": config["execute"], "seed": seed}
    strategy = Strategy(
        make_optimiser(config["name"], config["options"]),
        from_config(ObjectiveConfig, config["objective"], "planner objective"),
        from_config(ControllerConfig, controller, "planner"),
        from_config(ProposalConfig, config.get("proposals", {}), "planner proposals"),
    )
    samples, horizon = strategy.optimiser.samples, strategy.controller.horizon
    moments, gib = samples * horizon, samples * horizon * _BYTES_PER_MOMENT / 2**30
    if moments > MOST_MOMENTS:
        raise UserError(
            f"planner: {samples} samples over a horizon of {horizon} are {moments:,} states imagined at once, some "
            f"{gib:,.0f} GiB: at most {MOST_MOMENTS:,} are accepted"
        )
    return strategy
