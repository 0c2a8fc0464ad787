"""Ctrl-C ends a command in one line, from its first import on.

`python -m envs.collect` first imports the packages around the module, then everything that the module needs. This takes
seconds, in which no `main` can catch anything. So the packages call `until_main` before they import anything else.
Importing them has no other effect, and the call does nothing unless a command of this project was typed. `main` then
takes over with `interruptions`. What Python does before it imports the first package (some hundredths of a second)
stays as it is.

This module imports only the standard library.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

PACKAGES: Final = ("envs", "planning", "worldmodel")
INTERRUPTED: Final = 130  # the exit code that shells give a program that Ctrl-C ended
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_LINE: Final = b"interrupted: nothing had begun; the same command begins anew\n"


def until_main(*, is_command: bool | None = None) -> None:
    """From here on Ctrl-C, and SIGTERM, end the process in one line; where it is not one of our commands, do nothing.

    Waiting threads are asked to sleep rather than to spin as well, since that has to be said before torch is imported.

    Args:
        is_command: whether it is one; by default, whether `python -m` is about to run a module of ours.
    """
    if is_command is None:
        is_command = _typed_module().partition(".")[0] in PACKAGES
    if not is_command or threading.current_thread() is not threading.main_thread():
        return
    # Two spinning threads make a plan ten times slower where another process wants the processors, too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for number in _SIGNALS:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _leave)


def _typed_module() -> str:
    """What stands behind `python -m`, while Python looks for that module; "" at any other time."""
    if sys.argv[:1] != ["-m"]:
        return ""
    given = sys.orig_argv[1:]
    for argument, following in zip(given, [*given[1:], ""], strict=True):
        if re.fullmatch(r"-[A-Za-z]*m", argument):
            return following
        if argument.startswith("-m"):
            return argument[2:]
    return ""


def _leave(number: int, frame: FrameType | None) -> None:
    # Not by an exception: imports of large libraries, and C code that calls Python, swallow or change it.
    os.write(1, _LINE)
    os._exit(INTERRUPTED)


class Interruptions:
    """Whether this process was asked to end.

    Attributes:
        received: True from the first Ctrl-C or SIGTERM on. Libraries turn the KeyboardInterrupt into errors of their
            own (torch, while it loads a file: "could not determine the shape of object type"): an exception that comes
            after a signal is an interruption, whatever it is called.
    """

    def __init__(self) -> None:
        self.received = False

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        raise KeyboardInterrupt


@contextmanager
def interruptions() -> Iterator[Interruptions]:
    """In here, Ctrl-C and SIGTERM raise KeyboardInterrupt, and are remembered. Elsewhere than in the main thread, the
    signals stay as they are."""
    asked = Interruptions()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked._raise) for number in _SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            # After `main`, it would be wrong to say that nothing had begun.
            signal.signal(number, signal.SIG_DFL if handler in (_leave, None) else handler)
