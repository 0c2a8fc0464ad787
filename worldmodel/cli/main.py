"""The program `wm <command> ...`, which runs every command of this project from any folder.

Unlike `python -m`, an installed program does not look for modules in the current folder. So the user's folder may have
its own `envs/`, `configs/` or `planning.py`.
"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata

from worldmodel.cli.programs import NAME, PROGRAMS
from worldmodel.core.errors import choices_message
from worldmodel.core.interrupt import until_main

_PACKAGE = "worldmodel-toolkit"


def main() -> int:
    """Run the command that `sys.argv` names. Returns the command's exit code, 0, 1, 2 or 130."""
    until_main(is_command=True)
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        sys.stdout.write(f"{NAME} {version()}\n")
        return 0
    name, *rest = arguments
    if name not in PROGRAMS:
        sys.stderr.write(f"error: {choices_message('command', ' '.join(name.split()), PROGRAMS)}\n")
        return 2
    sys.argv = [sys.argv[0], *rest]
    module, config = PROGRAMS[name].module, PROGRAMS[name].config
    if config is not None and any(argument in ("-h", "--help") for argument in rest):
        # The command itself is not imported, since its imports take seconds.
        importlib.import_module("worldmodel.cli.command").show_help(config)
        return 0
    if module == "worldmodel.data":  # this module has subcommands
        return int(importlib.import_module(f"{module}.__main__").main(rest))
    importlib.import_module(module).main()
    return 0


def version() -> str:
    """The installed version of this project."""
    try:
        return metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _overview() -> str:
    width = max(map(len, PROGRAMS))
    lines = [f"  {NAME} {name:<{width}}  {program.purpose}" for name, program in PROGRAMS.items()]
    usage = [f"usage: {NAME} <command> [option=value ...]", "", *lines, ""]
    return "\n".join([*usage, f"`{NAME} <command> --help` explains every option of a command.", ""])


if __name__ == "__main__":
    sys.exit(main())
