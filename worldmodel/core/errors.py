"""Errors that tell the user, in one line, what was received and what is accepted.

A mistake of the user prints one line and gives exit code 2. A run that cannot continue prints one line and gives exit
code 1. A traceback means a bug in this project.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The user's input cannot be used. The message names the value received and the values accepted."""


class RunStopped(RuntimeError):
    """A run cannot continue. Finished work is kept. Commands end with its message, the reason, and exit code 1."""


def choices_message(what: str, received: object, accepted: Iterable[str]) -> str:
    """A message such as `unknown env 'pussh': choose from push, reacher (did you mean push?)`."""
    names = sorted(accepted)
    nearest = difflib.get_close_matches(str(received), names, n=1, cutoff=0.5)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    return f"unknown {what} '{received}': choose from {', '.join(names)}{hint}"


def how_to_install(extra: str) -> str:
    """The command that installs an extra, for messages. It has a path, since no package index has this project."""
    return f"pip install -c constraints.txt -e '.[{extra}]' in the project's folder"
