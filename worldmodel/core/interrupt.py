"""Ctrl-C ends a command in one line, from its first import on.

`python -m envs.collect` first imports the packages around the module, then everything that the module needs. This takes
seconds, in which no `main` can catch anything. So the packages call `until_main` before they import anything else.
Importing them has no other effect, and the call does nothing unless a command of this project was typed. `main` then
takes over with `interruptions`. What Python does before it imports the first package (some hundredths of a second)
stays as it is.

This module and what it imports need only the standard library.
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

from worldmodel.core.machine import reuse_freed_memory

PACKAGES: Final = ("envs", "planning", "worldmodel")
INTERRUPTED: Final = 130  # the exit code that shells give a program that Ctrl-C ended
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_LINE: Final = b"interrupted: nothing had begun; the same command begins anew\n"


def until_main(*, is_command: bool | None = None) -> None:
    """From now on, Ctrl-C and SIGTERM end the process in one line, if it is a command of this project.

    For such a process, this also makes waiting threads sleep instead of spin, and several ranks print errors of torch's
    libraries only. Both must be set before torch is imported. Freed memory is used again (`reuse_freed_memory`).

    Args:
        is_command: whether the process is a command of this project. By default, it is one if `python -m` is about to
            run a module of this project.
    """
    if is_command is None:
        is_command = _typed_module().partition(".")[0] in PACKAGES
    if not is_command or threading.current_thread() is not threading.main_thread():
        return
    # Two spinning threads make a plan ten times slower if another process uses the processors, too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    reuse_freed_memory()
    if "WORLD_SIZE" in os.environ:  # one of several ranks, each of which would print torch's remarks on itself
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for number in _SIGNALS:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _leave)


def _typed_module() -> str:
    """The module after `python -m`, while Python is looking for that module; "" at any other time."""
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
    # An exception would not do, since imports of large libraries and C code that calls Python swallow or change it.
    if "WORLD_SIZE" not in os.environ or os.environ.get("RANK") == "0":  # of several ranks, the first one prints
        os.write(1, _LINE)
    os._exit(INTERRUPTED)


class Interruptions:
    """Whether this process was asked to end.

    Attributes:
        received: True from the first Ctrl-C or SIGTERM on. Libraries turn the KeyboardInterrupt into errors of their
            own. For example, torch says "could not determine the shape of object type" while it loads a file. So
            every exception after a signal counts as an interruption.
    """

    def __init__(self) -> None:
        self.received = False

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        raise KeyboardInterrupt


@contextmanager
def interruptions() -> Iterator[Interruptions]:
    """A context in which Ctrl-C and SIGTERM raise KeyboardInterrupt and are remembered.

    In other threads than the main thread, it changes nothing.
    """
    asked = Interruptions()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked._raise) for number in _SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            # `_leave` must not return, since after `main` its message that nothing had begun would be wrong.
            signal.signal(number, signal.SIG_DFL if handler in (_leave, None) else handler)
