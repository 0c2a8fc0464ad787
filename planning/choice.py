"""The planner that a checkpoint was judged best with, which `planner=auto` uses.

It is in `planner.json` beside the checkpoint's `config.json`. `python -m planning.evaluate` writes it if it is asked
to. It is a file of its own because the hash of `config.json` tells checkpoints apart, and a better planner does not
make another model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from planning.policies.proposals import OWN
from worldmodel.core.configs import read_choice
from worldmodel.core.errors import UserError
from worldmodel.core.files import regular_file, write_json
from worldmodel.core.strict_json import parse_json
from worldmodel.core.text import printable

AUTO: Final = "auto"
FILE: Final = "planner.json"
_KEYS: Final = ("name", "horizon", "execute", "options", "objective")
_PROPOSALS: Final = "proposals"  # beside these, where they are those of the checkpoint's own head
_MOST_BYTES: Final = 2**16
_INFINITE: Final = "inf"


def settings_for(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration group `planner`, with `auto` replaced by the choice of the checkpoint in `folder`.

    Without a choice, it is the planner `otherwise`, `cem` by default, with the environment's own objective.

    Raises:
        UserError: for a file that cannot be read or does not describe a planner.
    """
    if settings.get("name") != AUTO:
        return dict(settings)
    path = folder / FILE
    if not path.exists():
        usual = read_choice("planner", str(settings.get("otherwise", "cem")))
        return {**usual, "objective": {**usual["objective"], **settings.get("objective", {})}}
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        with regular_file(path, _MOST_BYTES) as file:
            content = parse_json(file.read(_MOST_BYTES), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    planner = content.get("planner") if isinstance(content, dict) else None
    if not isinstance(planner, dict) or set(planner) - {_PROPOSALS} != set(_KEYS) or planner["name"] == AUTO:
        raise UserError(f"{path} does not describe a planner: expected {', '.join(_KEYS)}")
    proposals = planner.get(_PROPOSALS, {"inverse": OWN})
    if not isinstance(proposals, dict) or proposals.get("inverse") != OWN or "memory" in proposals:
        # A checkpoint may come from anywhere, and does not say which folders are read.
        raise UserError(f"{path} names {printable(proposals):.80} as proposals: expected inverse={OWN} and no memory")
    # Sizes and types are checked when the planner is made, as those of any other choice.
    return {key: _as_number(value) for key, value in planner.items()}


def write_choice(folder: Path, settings: Mapping[str, Any], judged: Mapping[str, Any]) -> Path:
    """Write the choice of the checkpoint in `folder`, and return its path.

    Args:
        folder: folder of the checkpoint.
        settings: the configuration group `planner`. Proposals from a named folder are left out, since it belongs to a
            machine.
        judged: what it was judged by, for the reader.
    """
    path = folder / FILE
    planner = {key: _as_text(settings[key]) for key in _KEYS}
    proposals = settings.get(_PROPOSALS, {})
    if proposals.get("inverse") == OWN:
        planner[_PROPOSALS] = {key: value for key, value in proposals.items() if key != "memory"}
    write_json({"planner": planner, "judged": dict(judged)}, path, indent=1)
    return path


def _as_text(value: Any) -> Any:
    """Plain values with infinity as text, since JSON has no number for it."""
    if isinstance(value, Mapping):
        return {key: _as_text(inner) for key, inner in value.items()}
    return _INFINITE if value == math.inf else value


def _as_number(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_number(inner) for key, inner in value.items()}
    return math.inf if value == _INFINITE else value
