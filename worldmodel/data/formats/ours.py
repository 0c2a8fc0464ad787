"""A file in exported data sets, which holds facts of a store that other formats cannot express.

Other programs ignore the file. An import of a data set with this file restores the store as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.formats.limits import MOST_NUMBERS, inside, read_json, require
from worldmodel.data.formats.source import FormatError

DESCRIPTION: Final = "meta/trajectory_store.json"
SEED: Final = "seed"  # a column of the table of episodes


class Ours(NamedTuple):
    """Facts of the store that a data set was exported from.

    Attributes:
        spec: specification of the store's environment; None for a data set from elsewhere.
        untold: the text that replaces the instruction in episodes without one.
    """

    spec: EnvironmentSpec | None = None
    untold: str | None = None


def describe(spec: EnvironmentSpec, recording: dict[str, Any], untold: str) -> dict[str, Any]:
    """The content of the file, as `read_description` reads it."""
    return {"environment": spec.to_dict(), "recording": recording, "untold": untold}


def read_description(root: Path) -> Ours:
    """Facts of the store that was exported to `root`. They are empty if the file is absent.

    Raises:
        FormatError: when the file cannot be understood.
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
