"""What every entry point shares: reading its options, and telling the user what was wrong with them.

A mistake of the user's ends in one line and exit code 2; a traceback means a bug of ours.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import re
import sys
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from worldmodel.cli.composing import Config, as_plain, composed, require_name, short
from worldmodel.cli.console import console, notices, shown
from worldmodel.cli.programs import as_typed
from worldmodel.cli.usage import help_text
from worldmodel.core.configs import CONFIGS
from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.interrupt import INTERRUPTED, interruptions
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
]
_GOES_ON: Final = "what was finished is kept; the same command goes on from there"
_BEGINS_ANEW: Final = "the same command begins anew"
_HELP: Final = ("-h", "--help")


def plain_options(config: Config) -> Config:
    """The options of a command itself: what is not in a group or section."""
    return {key: value for key, value in config.items() if not isinstance(value, dict)}


def command(config_name: str, *, goes_on: bool = True) -> Callable[[Callable[[Config], None]], Callable[[], None]]:
    """Make `main(config)` a command line program over `configs/<config_name>.yaml`, whose `--help` is that file.

    Exit codes: 0 done, 1 the run failed (its message says why), 2 the user's input cannot be used,
    130 interrupted (what was done is kept).

    Args:
        config_name: of the file, without its suffix.
        goes_on: whether the same command goes on where it was interrupted, or begins anew.
    """

    def decorate(main: Callable[[Config], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def run() -> None:
            with ending_in_one_line(_GOES_ON if goes_on else _BEGINS_ANEW):
                _run(config_name, main, sys.argv[1:])

        return run

    return decorate


def show_help(config_name: str) -> None:
    """`--help` of the command over `configs/<config_name>.yaml`, whose options `sys.argv` has."""
    with ending_in_one_line(_BEGINS_ANEW):
        # Hydra's own page knows neither what an option means nor which groups the command takes.
        text = help_text(config_name, [a for a in sys.argv[1:] if not a.startswith("-")])
        console.print(as_typed(text), markup=False)


def _run(config_name: str, main: Callable[[Config], None], arguments: list[str]) -> None:
    overrides = [a for a in arguments if not a.startswith("-")]
    flags = [a for a in arguments if a.startswith("-")]
    if any(flag in _HELP for flag in flags):
        show_help(config_name)
        return
    if flags:  # of Hydra's: --cfg job, --multirun
        if not any(flag in ("-m", "--multirun") for flag in flags):
            composed(config_name, overrides)  # before Hydra does, for the message
        GlobalHydra.instance().clear()
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(_quietly(main))()
        return
    config = composed(config_name, overrides, with_hydra=True)
    HydraConfig.instance().set_config(config)
    main(_checked(as_plain(config)))


def _checked(config: Config) -> Config:
    """What all commands ask of an environment. Raises UserError."""
    env = config.get("env")
    if isinstance(env, dict):
        # Files are written to `runs/<name>/`.
        require_name("env.name", env.get("name"))
        size = env.get("image_size", 1)
        if type(size) is int and not 1 <= size <= MOST_PIXELS:  # before anything of that size is drawn
            raise UserError(f"env.image_size {size} cannot be used: expected a whole number from 1 to {MOST_PIXELS}")
    return config


# What the operating system answers who may not write: no room, no quota, read-only, a disk that fails, no right to.
_REFUSALS: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
# And what to a path that cannot be one, however it was typed.
_NO_PATHS: Final = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}


@contextlib.contextmanager
def ending_in_one_line(interrupted: str) -> Iterator[None]:
    """Around a whole command: whatever is not a bug of ours ends it in one line and its exit code (see `command`).

    Args:
        interrupted: what to say after a Ctrl-C.
    """
    with notices(), interruptions() as asked:
        try:
            yield
        except KeyboardInterrupt:
            _interrupted(interrupted)
        except Exception as error:
            if asked.received:  # what a library made of it
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
    """Why a run has failed, if it is no bug: it says so itself, or the machine's memory is at its end."""
    if isinstance(error, RunStopped):
        return str(error)
    text = " ".join(str(error).split())
    # torch raises a RuntimeError on the CPU: "can't allocate memory: you tried to allocate 123 bytes".
    if isinstance(error, MemoryError) or re.search(r"can't allocate memory|out of memory", text, re.IGNORECASE):
        tried = re.search(r"tried to allocate ([\d.]+ \w+)", text)
        amount = f" ({tried[1]} were asked for at once)" if tried else ""
        return f"the memory of this machine does not suffice{amount}: smaller batches or pictures need less"
    return None


def refusal(error: OSError) -> str | None:
    """One line, if this is the operating system that does not let us write; None for any other error."""
    if error.errno not in _REFUSALS:
        return None
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def stopped(message: str) -> int:
    """Print one line on why a run has failed. Returns its exit code."""
    with contextlib.suppress(OSError):  # what cannot be written may be this
        console.print(f"[red]stopped[/]: {shown(as_typed(message))}")
    return 1


def fail(message: str) -> NoReturn:
    """Print one line to stderr and exit with code 2."""
    print(f"error: {as_typed(printable(without_secrets(message)))}", file=sys.stderr)
    raise SystemExit(2)


def _quietly(main: Callable[[Config], None]) -> Callable[[DictConfig], None]:
    """Hydra prints tracebacks of its own for exceptions; what ends in one line must leave before it sees one."""

    def wrapped(config: DictConfig) -> None:
        with ending_in_one_line(_GOES_ON):
            main(_checked(as_plain(config)))

    wrapped.__module__ = main.__module__
    return wrapped


def env_selection() -> str:
    """What to type so that another command opens the same environment, for example `env=push env.distractors=true`."""
    chosen = HydraConfig.get()
    options = [override for override in chosen.overrides.task if override.startswith("env.")]
    return " ".join([f"env={chosen.runtime.choices['env']}", *options])


def next_command(module: str, *options: str, **renamed: str) -> str:
    """The line that tells what to type next: `next: python -m worldmodel.pretrain env=push data=elsewhere.zarr`.

    The same environment, then what the user gave this command and the next one needs too, `renamed` from its name here
    to its name there, then further `options`. Who typed `wm collect` reads `next: wm pretrain ...`.
    """
    given = dict(override.split("=", 1) for override in HydraConfig.get().overrides.task if "=" in override)
    passed_on = [f"{there}={given[here]}" for here, there in renamed.items() if here in given]
    line = " ".join([f"next: python -m {module}", env_selection(), *passed_on, *options])
    return as_typed(without_secrets(line))
