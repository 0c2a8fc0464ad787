"""The console of all commands, on which log messages of this project appear, too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape

from worldmodel.core.text import printable, without_secrets

__all__ = ["console", "escape", "notices", "shown"]

console = Console(highlight=False, soft_wrap=True)

# The top loggers of this project, which receive the messages of all modules.
_LOGGERS: Final = ("envs", "planning", "worldmodel")


class _Notices(logging.Handler):
    """Prints log messages. In a warning such as `dropped: the unfinished episode`, the first word is coloured."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = printable(without_secrets(record.getMessage()))
            word, colon, rest = text.partition(":")
            is_titled = colon and len(word) < 30 and record.levelno >= logging.WARNING
            console.print(f"[yellow]{escape(word)}[/]:{escape(rest)}" if is_titled else escape(text))
        except Exception:  # as in all handlers of `logging`, since a failed report must not end the operation
            self.handleError(record)


@contextmanager
def notices() -> Iterator[None]:
    """A context in which log messages of this project's modules are printed on the console.

    A user's own program does not enter it. There Python prints warnings on standard error, unless the program
    configures logging.
    """
    handler = _Notices()
    before = {}
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        before[name] = (logger.level, logger.propagate)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for name, (level, propagate) in before.items():
            logger = logging.getLogger(name)
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def shown(text: object) -> str:
    """Untrusted text for `console.print` and tables, without control sequences, markup or passwords."""
    return escape(printable(without_secrets(text)))
