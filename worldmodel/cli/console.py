"""Where commands print, and what the rest of this project has to tell on the way."""

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

# Loggers of this project, each above those of its modules.
_LOGGERS: Final = ("envs", "planning", "worldmodel")


class _Notices(logging.Handler):
    """Prints `dropped: the unfinished episode` with its first word in colour."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = printable(without_secrets(record.getMessage()))
            word, colon, rest = text.partition(":")
            is_titled = colon and len(word) < 30 and record.levelno >= logging.WARNING
            console.print(f"[yellow]{escape(word)}[/]:{escape(rest)}" if is_titled else escape(text))
        except Exception:  # as every handler of `logging` does: telling must not end what is told about
            self.handleError(record)


@contextmanager
def notices() -> Iterator[None]:
    """In here, what this project's modules tell by `logging` is printed on the console.

    In a program of the user's own, which does not enter this, Python prints their warnings on standard error, and the
    program may do with them what it likes.
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
    """Text that others wrote, for `console.print` and tables: no control sequence, no markup, no password."""
    return escape(printable(without_secrets(text)))
