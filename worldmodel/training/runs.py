"""The folder of a training run. The same command continues the run, and a command with other options is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from worldmodel.core.errors import UserError
from worldmodel.core.files import write_json
from worldmodel.core.text import without_secrets

WHOLE: Final = "training.pt"  # a checkpoint of the training
PARTS: Final = "training.parts"  # folder of checkpoints whose parts the ranks wrote (`worldmodel.training.parts`)
COMPLETE: Final = ".metadata"  # the file of such a checkpoint that torch writes last
_WITHOUT_INFLUENCE: Final = ("device", "out", "parallel")


def describe_run(options: Mapping[str, Any], **made_from: str) -> dict[str, Any]:
    """Everything that determines a run's result, as JSON values: its options, and the hashes of its inputs.

    The folders that hold it may be shared, so passwords in addresses are removed.
    """
    told = {key: value for key, value in options.items() if key not in _WITHOUT_INFLUENCE}
    return {**{k: without_secrets(v) if isinstance(v, str) else v for k, v in told.items()}, **made_from}


def open_run(folder: Path, description: dict[str, Any]) -> None:
    """Begin the run `description` in `folder`, or continue it.

    A run without a stored step counts as not begun, since another command would not destroy any work.

    Raises:
        UserError: when the folder holds a run with other options. The message names the first that differs.
    """
    path = folder / "run.json"
    wanted = json.loads(json.dumps(description))
    if not path.exists() or not _has_begun(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(wanted, path)
        return
    try:
        present = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove {folder} to start over") from error
    difference = first_difference(present, wanted)
    if difference is not None:
        key, old, new = difference
        if key == "store":
            raise UserError(
                f"{folder} holds a run on another recording, or on this one before more was recorded: give another "
                "out=, or remove the folder"
            )
        if key == "files":
            raise UserError(
                f"{folder} holds a run on other videos, or on these before files were added, removed or changed: give "
                "another out=, or remove the folder"
            )
        raise UserError(
            f"{folder} holds a run with {key}={old}, this command asks for {new}: "
            "repeat the first command to go on, give another out=, or remove the folder"
        )


def open_or_find_finished(folder: Path, description: dict[str, Any]) -> bool:
    """`open_run`, and whether the run has finished already. Of several ranks, only the first one looks.

    Raises: as `open_run`.
    """
    open_run(folder, description)
    return is_finished(folder)


def newest_in_parts(folder: Path) -> Path | None:
    """The newest complete checkpoint in parts of the run in `folder`, if any."""
    complete = [path.parent for path in (folder / PARTS).glob(f"*/{COMPLETE}") if path.parent.name.isdigit()]
    return max(complete, key=step_of, default=None)


def step_of(path: Path) -> int:
    """The step of the checkpoint at `path`."""
    return int(path.name)


def remove_parts(folder: Path) -> None:
    """Remove all checkpoints in parts of the run in `folder`."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Dotted key and both values of the first difference between two JSON values, or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(set(old) | set(new)):
            found = first_difference(old.get(name), new.get(name), f"{key}.{name}" if key else name)
            if found is not None:
                return found
        return None
    return None if old == new else (key, old, new)


def is_finished(folder: Path) -> bool:
    """Whether the run has written its checkpoint."""
    return (folder / "config.json").is_file()


def _has_begun(folder: Path) -> bool:
    """Whether the run has a stored step, either of its own or of one of its stages, which have folders of their own."""
    names = (WHOLE, f"{PARTS}/*/{COMPLETE}")
    return is_finished(folder) or any(found for name in names for found in folder.rglob(name))
