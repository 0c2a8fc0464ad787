"""The common part of all commands, which reads their options and reports errors to the user.

A mistake of the user ends in one line and exit code 2. A traceback means a bug in this project.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from worldmodel.cli.composing import Config, as_plain, composed, require_name, short, usual_overrides
from worldmodel.cli.console import console, notices, shown
from worldmodel.cli.programs import as_typed
from worldmodel.cli.usage import help_text
from worldmodel.core.configs import CONFIGS
from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.interrupt import INTERRUPTED, interruptions
from worldmodel.core.ranks import launched, together
from worldmodel.core.roll_call import RankLost
from worldmodel.core.spec import MOST_PIXELS
from worldmodel.core.text import printable, without_secrets

__all__ = [
    "Config",
    "as_plain",
    "command",
    "composed",
    "ending_in_one_line",
    "env_selection",
    "fail",
    "next_command",
    "plain_options",
    "refusal",
    "show_help",
    "stopped",
    "typed_options",
]
_GOES_ON: Final = "what was finished is kept; the same command goes on from there"
_BEGINS_ANEW: Final = "the same command begins anew"
_HELP: Final = ("-h", "--help")
_TRAININGS: Final = "worldmodel.pretrain and worldmodel.train"
_FLAGS: Final = {"--dry-run": "dry_run=true"}  # options that are customary as flags


def plain_options(config: Config) -> Config:
    """A command's own options, which are in no group or section."""
    return {key: value for key, value in config.items() if not isinstance(value, dict)}


def command(
    config_name: str, *, goes_on: bool = True, on_ranks: bool = False
) -> Callable[[Callable[[Config], None]], Callable[[], None]]:
    """Make `main(config)` a command with the options of `configs/<config_name>.yaml`, which `--help` prints.

    Exit codes are 0 (success), 1 (the run failed, and a message says why), 2 (the user's input cannot be used) and
    130 (interrupted, with finished work kept).

    Args:
        config_name: name of the file, without its suffix.
        goes_on: whether the same command continues after an interruption, or starts over.
        on_ranks: whether torchrun can start the command in several processes that train together. Other commands
            refuse that.
    """

    def decorate(main: Callable[[Config], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def run() -> None:
            with ending_in_one_line(_GOES_ON if goes_on else _BEGINS_ANEW), _ranks() if on_ranks else _alone():
                _run(config_name, main, [_FLAGS.get(argument, argument) for argument in sys.argv[1:]])

        return run

    return decorate


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """A context for a command that runs in one process. Raises UserError if torchrun has started several."""
    rank = launched()
    if rank.count > 1:
        if not rank.is_first:
            raise SystemExit(2)
        raise UserError(
            f"{rank.count} processes of this command: expected one, since only the commands of {_TRAININGS} train in "
            "several (docs/scale.md)"
        )
    yield


@contextlib.contextmanager
def _ranks() -> Iterator[None]:
    """A context in which all processes that torchrun has started train together. Only the first one prints."""
    with together(_lost) as rank:
        console.quiet = not rank.is_first
        try:
            if rank.count > 1:
                console.print(f"{rank.count} ranks train together")
            yield
        finally:
            console.quiet = False  # whoever is left to say something now is the one that prints it


def _lost(message: str) -> None:
    """End this process from a thread, since another rank is lost."""
    console.quiet = False
    if message:
        stopped(f"{message}; {_GOES_ON}")
    os._exit(1)


def show_help(config_name: str) -> None:
    """Print the `--help` of the command with `configs/<config_name>.yaml`. `sys.argv` has the options."""
    with ending_in_one_line(_BEGINS_ANEW):
        # Hydra's own page explains neither the meaning of options nor the groups that the command takes.
        text = help_text(config_name, [a for a in sys.argv[1:] if not a.startswith("-")])
        console.print(as_typed(text), markup=False)


def _run(config_name: str, main: Callable[[Config], None], arguments: list[str]) -> None:
    overrides = [a for a in arguments if not a.startswith("-")]
    flags = [a for a in arguments if a.startswith("-")]
    if any(flag in _HELP for flag in flags):
        show_help(config_name)
        return
    if flags:  # flags of Hydra, such as --cfg job and --multirun
        if not any(flag in ("-m", "--multirun") for flag in flags):
            composed(config_name, overrides)  # raises our message for a mistake, before Hydra raises its own
        sys.argv += usual_overrides(config_name, overrides)  # which Hydra reads
        GlobalHydra.instance().clear()
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(_quietly(main))()
        return
    config = composed(config_name, overrides, with_hydra=True)
    HydraConfig.instance().set_config(config)
    main(_checked(as_plain(config)))


def _checked(config: Config) -> Config:
    """Check the environment's options that all commands share. Raises UserError."""
    env = config.get("env")
    if isinstance(env, dict):
        # Files are written to `runs/<name>/`.
        require_name("env.name", env.get("name"))
        size = env.get("image_size", 1)
        if type(size) is int and not 1 <= size <= MOST_PIXELS:  # refused before any image of that size is rendered
            raise UserError(f"env.image_size {size} cannot be used: expected a whole number from 1 to {MOST_PIXELS}")
    return config


# Errors of the operating system for refused writes: no room, no quota, read-only, a failing disk, no permission.
_REFUSALS: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
# Errors of the operating system for paths that cannot be used, which are mistakes of the user.
_NO_PATHS: Final = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}


@contextlib.contextmanager
def ending_in_one_line(interrupted: str) -> Iterator[None]:
    """A context for a whole command. Every error but a bug ends it in one line and an exit code (see `command`).

    Args:
        interrupted: the message after a Ctrl-C.
    """
    with notices(), interruptions() as asked:
        try:
            yield
        except KeyboardInterrupt:
            _interrupted(interrupted)
        except Exception as error:
            # A library turned the interruption into another exception. torchrun interrupts when a rank has died.
            if asked.received and not isinstance(error, RankLost):
                _interrupted(interrupted)
            if isinstance(error, UserError):
                fail(str(error))
            message = refusal(error) if isinstance(error, OSError) else _stop_reason(error)
            if message is not None:
                raise SystemExit(stopped(message)) from None
            if isinstance(error, OSError) and error.errno in _NO_PATHS:
                fail(f"{short(str(error.filename))}: {error.strerror}")
            raise


def _interrupted(message: str) -> NoReturn:
    with contextlib.suppress(OSError):
        console.print(f"[yellow]interrupted[/]: {message}")
    raise SystemExit(INTERRUPTED) from None


def _stop_reason(error: Exception) -> str | None:
    """The reason for a failed run, if it is RunStopped or a lack of memory; None for a bug."""
    if isinstance(error, RankLost):
        return f"{error}; {_GOES_ON}"
    if isinstance(error, RunStopped):
        return str(error)
    text = " ".join(str(error).split())
    # On the CPU, torch raises a RuntimeError: "can't allocate memory: you tried to allocate 123 bytes".
    if isinstance(error, MemoryError) or re.search(r"can't allocate memory|out of memory", text, re.IGNORECASE):
        tried = re.search(r"tried to allocate ([\d.]+ \w+)", text)
        amount = f" ({tried[1]} were asked for at once)" if tried else ""
        return f"the memory of this machine does not suffice{amount}: smaller batches or pictures need less"
    return None


def refusal(error: OSError) -> str | None:
    """One line about a write that the operating system refuses; None for any other error."""
    if error.errno not in _REFUSALS:
        return None
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def stopped(message: str) -> int:
    """Print one line on why a run has failed. Returns its exit code."""
    with contextlib.suppress(OSError):  # the output itself may be what cannot be written
        console.print(f"[red]stopped[/]: {shown(as_typed(message))}")
    return 1


def fail(message: str) -> NoReturn:
    """Print one line to stderr and exit with code 2."""
    print(f"error: {as_typed(printable(without_secrets(message)))}", file=sys.stderr)
    raise SystemExit(2)


def _quietly(main: Callable[[Config], None]) -> Callable[[DictConfig], None]:
    """`main` with its errors ended in one line, before Hydra sees them and prints a traceback of its own.

    A launcher of Hydra sends the function to other machines. It therefore refers to the command's module by name, since
    a function of the module that Python runs as `__main__` would be sent with everything that it uses.
    """
    spec = getattr(sys.modules[main.__module__], "__spec__", None)
    module = main.__module__ if spec is None else spec.name

    def wrapped(config: DictConfig) -> None:
        with ending_in_one_line(_GOES_ON):
            importlib.import_module(module).main.__wrapped__(_checked(as_plain(config)))

    def local(config: DictConfig) -> None:
        with ending_in_one_line(_GOES_ON):
            main(_checked(as_plain(config)))

    is_command = getattr(getattr(sys.modules[main.__module__], "main", None), "__wrapped__", None) is main
    chosen = wrapped if is_command else local
    chosen.__module__ = main.__module__
    return chosen


def env_selection() -> str:
    """The options with which another command opens the same environment, such as `env=push env.distractors=true`."""
    chosen = HydraConfig.get()
    options = [override for override in chosen.overrides.task if override.startswith("env.")]
    return " ".join([f"env={chosen.runtime.choices['env']}", *options])


def typed_options(group: str) -> list[str]:
    """The options of a group as they were typed, for other commands, such as `env=push` and `env.distractors=true`."""
    typed = HydraConfig.get().overrides.task
    return [override for override in typed if re.split(r"[.=]", override)[0] == group]


def next_command(module: str, *options: str, **renamed: str) -> str:
    """A line with the next command, such as `next: python -m worldmodel.pretrain env=push data=elsewhere.zarr`.

    It has the same environment, the user's options that the next command needs too, and further `options`. `renamed`
    maps the name of an option here to its name there. A user who typed `wm collect` sees `next: wm pretrain ...`.
    """
    given = dict(override.split("=", 1) for override in HydraConfig.get().overrides.task if "=" in override)
    passed_on = [f"{there}={given[here]}" for here, there in renamed.items() if here in given]
    line = " ".join([f"next: python -m {module}", env_selection(), *passed_on, *options])
    return as_typed(without_secrets(line))
