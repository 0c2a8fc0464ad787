"""The files of `configs/`: where they are, and their values without Hydra.

They lie beside this package. They are not looked up by the name `configs`, which a folder of the user's may bear.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from worldmodel.core.errors import UserError, choices_message

CONFIGS: Final = Path(__file__).resolve().parents[2] / "configs"


def group_choices(group: str) -> list[str]:
    """What `group=` accepts: the names of the files in `configs/<group>/`."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def read_choice(group: str, name: str) -> dict[str, Any]:
    """The values of `configs/<group>/<name>.yaml`; those that refer to others (`${...}`) are left out.

    Raises:
        UserError: for a name that the group does not have.
    """
    if name not in group_choices(group):
        raise UserError(choices_message(group, name, group_choices(group)))
    values = yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text()) or {}
    return {key: value for key, value in values.items() if not (isinstance(value, str) and "${" in value)}
