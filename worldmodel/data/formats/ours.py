"""What of a store other formats have no place for: a file of its own in an exported data set.

Other programs leave it alone. A data set that bears it comes back as the store that it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.formats.limits import MOST_NUMBERS, inside, read_json, require
from worldmodel.data.formats.source import FormatError

DESCRIPTION: Final = "meta/trajectory_store.json"
SEED: Final = "seed"  # column of the episodes' table


class Ours(NamedTuple):
    """What is known of the store that a data set was exported from.

    Attributes:
        spec: its environment; None where the data set is from elsewhere.
        untold: what stands in the place of the instruction in episodes that had none.
    """

    spec: EnvironmentSpec | None = None
    untold: str | None = None


def describe(spec: EnvironmentSpec, recording: dict[str, Any], untold: str) -> dict[str, Any]:
    """What `read_description` reads."""
    return {"environment": spec.to_dict(), "recording": recording, "untold": untold}


def read_description(root: Path) -> Ours:
    """What is known of the store that was exported to `root`.

    Raises:
        FormatError: when it is there and cannot be understood.
    """
    path = inside(root, DESCRIPTION, DESCRIPTION)
    if not path.is_file():
        return Ours()
    told = read_json(path)
    values = told.get("environment") if isinstance(told, dict) else None
    if not isinstance(values, dict):
        raise FormatError(f"{path} does not say its environment")
    try:
        spec = EnvironmentSpec.from_dict(values)
    except UserError as error:
        raise FormatError(f"{path}: {error}") from error
    require(spec.action.size <= MOST_NUMBERS, f"{path}: the action has {spec.action.size} dimensions")
    require(0 < spec.control_step_s < 1e6, f"{path}: control_step_s is {spec.control_step_s}")
    untold = told.get("untold")
    return Ours(spec, untold if isinstance(untold, str) else None)
