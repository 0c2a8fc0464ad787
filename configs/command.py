"""What every entry point shares: reading a Hydra configuration, and telling the user what was wrong with it.

A mistake of the user's ends in one line and exit code 2; a traceback means a bug of ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import re
import sys
import tempfile
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from configs.usage import group_choices, help_text

console = Console(highlight=False, soft_wrap=True)
T = TypeVar("T")


class UserError(ValueError):
    """Something the user gave cannot be used. The message names what was received and what is accepted."""


def choices_message(what: str, received: object, accepted: Iterable[str]) -> str:
    """`unknown env 'pussh': choose from push, reacher (did you mean push?)`."""
    names = sorted(accepted)
    nearest = difflib.get_close_matches(str(received), names, n=1, cutoff=0.5)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    return f"unknown {what} '{received}': choose from {', '.join(names)}{hint}"


def how_to_install(extra: str) -> str:
    """For a message about what is not installed. By path: our name is not registered with any package index."""
    return f"pip install -c constraints.txt -e '.[{extra}]' in the project's folder"


def from_config(cls: type[T], values: DictConfig | dict[str, Any], what: str) -> T:
    """Build the dataclass `cls` from configuration values.

    Raises:
        UserError: for a key that `cls` does not have, a value of another type, or one that it refuses.
    """
    container = OmegaConf.to_container(values, resolve=True) if isinstance(values, DictConfig) else values
    assert isinstance(container, dict)
    plain = {str(key): value for key, value in container.items()}
    accepted = {field.name for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in plain:
        if key not in accepted:
            raise UserError(choices_message(f"{what} option", key, accepted))
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    hints = typing.get_type_hints(cls)
    for key, value in plain.items():
        if not _fits(value, hints[key]):
            raise UserError(f"{what} option {key} is {value!r}: expected {_describe_type(hints[key])}")
    try:
        return cls(**plain)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what}: {error}") from error


def plain_options(config: DictConfig) -> dict[str, Any]:
    """The options of a command itself: what is not in a group or section."""
    return {str(key): config[key] for key in config if not OmegaConf.is_config(config[key])}


_PLAIN_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def _fits(value: object, hint: Any) -> bool:
    """Whether a value from YAML is what a field is annotated with, as far as that is plain: `int`, `str | None`, ..."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        parts = [part for part in typing.get_args(hint) if part is not ...]
        return isinstance(value, tuple) and all(any(_fits(item, part) for part in parts) for item in value)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint if hint in _PLAIN_TYPES else True


def _describe_type(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"a list of {_describe_type(typing.get_args(hint)[0]).removeprefix('a ')}s"
    parts = typing.get_args(hint) or (hint,)
    return " or ".join(_PLAIN_TYPES.get(part, str(part)) for part in parts)


def output_folder(path: str | Path, option: str = "out") -> Path:
    """Make the folder that a command is going to write to, before it begins to work.

    Raises:
        UserError: where it cannot be made, or nothing can be written there.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{option} '{folder}' cannot be written to ({reason}): expected a folder") from error
    return folder


def output_file(path: str | Path, option: str = "out") -> Path:
    """Make the folder of a file that a command is going to write.

    Raises:
        UserError: where nothing can be written there, or there is a folder of that name.
    """
    output_folder(Path(path).parent, option)
    if Path(path).is_dir():
        raise UserError(f"{option} '{path}' is a folder: expected a file")
    return Path(path)


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
    with initialize_config_module("configs", version_base="1.3"):
        try:
            return compose(config_name, overrides)
        except (ConfigCompositionException, HydraException, OmegaConfBaseException) as error:
            try:
                message = _explain(error, config_name, overrides)
            except (HydraException, OmegaConfBaseException):
                message = str(error).splitlines()[0]
            raise UserError(message) from error


def command(config_name: str, *, goes_on: bool = True) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
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

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
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
                hydra.main(version_base="1.3", config_path="pkg://configs", config_name=config_name)(_quietly(main))()
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
        console.print(f"[red]stopped[/]: {escape(' '.join(message.split()))}")
    return 1


def fail(message: str) -> NoReturn:
    """Print one line to stderr and exit with code 2."""
    one_line = " ".join(message.split())
    print(f"error: {one_line}", file=sys.stderr)
    raise SystemExit(2)


def _quietly(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Hydra prints tracebacks of its own for exceptions; what ends in one line must leave before it sees one."""

    def wrapped(config: DictConfig) -> None:
        try:
            main(config)
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
