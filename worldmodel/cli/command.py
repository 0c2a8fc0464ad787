"""What every entry point shares: reading a Hydra configuration, and telling the user what was wrong with it.

A mistake of the user's ends in one line and exit code 2; a traceback means a bug of ours.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from worldmodel.cli.console import console, shown
from worldmodel.cli.usage import help_text
from worldmodel.core.configs import CONFIGS, group_choices
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.text import printable, without_secrets

Config = dict[str, Any]


def plain_options(config: Config) -> Config:
    """The options of a command itself: what is not in a group or section."""
    return {key: value for key, value in config.items() if not isinstance(value, dict)}


def as_plain(config: DictConfig) -> Config:
    """A composed configuration as plain values, interpolations resolved.

    Raises:
        UserError: for an interpolation that leads nowhere, or round in a circle.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"options cannot be resolved: {(str(error).splitlines() or ['a circle'])[0]}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _option_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in map(str, config):
        keys.append(f"{prefix}{key}")
        value = config._get_node(key)
        if isinstance(value, DictConfig):
            keys += _option_keys(value, f"{prefix}{key}.")
    return keys


def _is_one_value(override: str) -> bool:
    try:
        return not OverridesParser.create().parse_override(override).is_sweep_override()
    except HydraException:
        return False


def _explain(error: Exception, config_name: str, overrides: list[str]) -> str:
    """Turn Hydra's complaint about `overrides` into one line with the valid choices."""
    text = str(error)
    missing_group = re.search(r"Could not find '(\w+)/([^']+)'", text)
    if missing_group:
        group, name = missing_group.groups()
        return choices_message(group, name, group_choices(group))
    for override in overrides:
        if "=" not in override:
            return f"'{override}' is not an option: options are written key=value, for example env=push"
        if not _is_one_value(override):
            key, value = override.split("=", 1)
            return (
                f"option '{override}' cannot be read: a value with special characters needs quotes: \"{key}='{value}'\""
            )
    # The longest key first: `env` is also part of a complaint about `env.distractor`.
    for override in sorted(overrides, key=lambda o: -len(o.split("=", 1)[0])):
        key = override.split("=", 1)[0].lstrip("+~")
        if f"'{key.split('.')[-1]}'" in text or f"{key}" in text:
            base = compose(config_name, [o for o in overrides if o.startswith("env=")])
            accepted = _option_keys(base)
            nearest = difflib.get_close_matches(key, accepted, n=1, cutoff=0.4)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            here = [k for k in accepted if k.rpartition(".")[0] == key.rpartition(".")[0]]
            siblings = sorted(here or map(str, base))
            return f"option '{override}' does not fit: options here are {', '.join(siblings)}{hint}"
    return text.splitlines()[0]


def composed(config_name: str, overrides: list[str]) -> DictConfig:
    """`configs/<config_name>.yaml` with `overrides`; a mistake in them gets our one line rather than Hydra's page.

    Raises:
        UserError: when the overrides do not compose.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            return compose(config_name, overrides)
        except (ConfigCompositionException, HydraException, OmegaConfBaseException) as error:
            try:
                message = _explain(error, config_name, overrides)
            except (HydraException, OmegaConfBaseException):
                message = str(error).splitlines()[0]
            raise UserError(message) from error


def command(config_name: str, *, goes_on: bool = True) -> Callable[[Callable[[Config], None]], Callable[[], None]]:
    """Make `main(config)` a command line program over `configs/<config_name>.yaml`, whose `--help` is that file.

    Exit codes: 0 done, 1 the run failed (its message says why), 2 the user's input cannot be used,
    130 interrupted (what was done is kept).

    Args:
        config_name: of the file, without its suffix.
        goes_on: whether the same command goes on where it was interrupted, or begins anew.
    """
    interrupted = (
        "what was finished is kept; the same command goes on from there" if goes_on else "the same command begins anew"
    )

    def decorate(main: Callable[[Config], None]) -> Callable[[], None]:
        def run() -> None:
            arguments = sys.argv[1:]
            overrides = [a for a in arguments if not a.startswith("-")]
            try:
                if not any(a in ("-m", "--multirun") for a in arguments):
                    composed(config_name, overrides)  # before Hydra does, for the message
                if any(a in ("-h", "--help") for a in arguments):
                    # Hydra's own page knows neither what an option means nor which groups the command takes.
                    console.print(help_text(config_name, overrides), markup=False)
                    return
                GlobalHydra.instance().clear()
                hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(_quietly(main))()
            except UserError as error:
                fail(str(error))
            except KeyboardInterrupt:
                console.print(f"[yellow]interrupted[/]: {interrupted}")
                raise SystemExit(130) from None

        return run

    return decorate


# What the operating system answers who may not write: no room, no quota, read-only, a disk that fails, no right to.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


def refusal(error: OSError) -> str | None:
    """One line, if this is the operating system that does not let us write; None for any other error."""
    if error.errno not in _REFUSALS:
        return None
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def stopped(message: str) -> int:
    """Print one line on why a run has failed. Returns its exit code."""
    with contextlib.suppress(OSError):  # what cannot be written may be this
        console.print(f"[red]stopped[/]: {shown(message)}")
    return 1


def fail(message: str) -> NoReturn:
    """Print one line to stderr and exit with code 2."""
    print(f"error: {printable(without_secrets(message))}", file=sys.stderr)
    raise SystemExit(2)


def _quietly(main: Callable[[Config], None]) -> Callable[[DictConfig], None]:
    """Hydra prints tracebacks of its own for exceptions; what ends in one line must leave before it sees one."""

    def wrapped(config: DictConfig) -> None:
        try:
            main(as_plain(config))
        except UserError as error:
            fail(str(error))
        except OSError as error:
            message = refusal(error)
            if message is None:
                raise
            raise SystemExit(stopped(message)) from None

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
    to its name there, then further `options`.
    """
    given = dict(override.split("=", 1) for override in HydraConfig.get().overrides.task if "=" in override)
    passed_on = [f"{there}={given[here]}" for here, there in renamed.items() if here in given]
    return " ".join(["next: python -m", module, env_selection(), *passed_on, *options])
