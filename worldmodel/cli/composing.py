"""Composes plain values from `configs/` and the user's options. Every mistake gives an error of one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from worldmodel.core import configs
from worldmodel.core.configs import CONFIGS, GROUPS_OF_PLUGINS, group_choices, plugin_choices, read_choice
from worldmodel.core.errors import UserError, choices_message

Config = dict[str, Any]
_LONGEST: Final = 60  # characters of the user's input that a message quotes
# In the defaults of a file: the choice of a group for an environment, or else for its family, or one that is not there.
OmegaConf.register_new_resolver(
    "choice_for",
    lambda group, env, prefix="": configs.choice_for(group, env, prefix) or f"{prefix}{env}",
    replace=True,
)


def as_plain(config: DictConfig) -> Config:
    """A composed configuration as plain values, with interpolations resolved.

    Raises:
        UserError: for an interpolation without a target or in a circle, and for a missing value.
    """
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is missing: it has no default") from error
    # A circle raises RecursionError, and interpolation of a text that is not a number raises ValueError.
    except (OmegaConfBaseException, RecursionError, ValueError, TypeError) as error:
        reason = "a circle" if isinstance(error, RecursionError) else _first_line(error)
        raise UserError(f"options cannot be resolved: {reason}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def composed(config_name: str, overrides: list[str], *, with_hydra: bool = False) -> DictConfig:
    """`configs/<config_name>.yaml` with `overrides`. A mistake in them gives one line instead of Hydra's page.

    Args:
        config_name: name of the file, without its suffix.
        overrides: the options `key=value`, as typed.
        with_hydra: keep the section `hydra`, which has the overrides and the choices of groups.

    Raises:
        UserError: when the overrides do not compose.
    """
    _add_plugins()
    _check(config_name, overrides)
    usual = usual_overrides(config_name, overrides)
    named = [option for option in usual if option.startswith("env.name=")]  # counts in place of what was typed
    overrides = [*(option for option in usual if option not in named), *overrides, *named]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            return compose(config_name, overrides, return_hydra_config=with_hydra)
        # Hydra's parser and OmegaConf raise many kinds of errors for odd text, also ValueError and RecursionError.
        except Exception as error:
            try:
                message = _explain(error, config_name, overrides)
            except Exception:  # the explanation composes too, and can fail likewise
                message = _first_line(error)
            raise UserError(message) from error


def short(text: str) -> str:
    """`text`, cut if it is too long for a message."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def _first_line(error: Exception) -> str:
    return short((str(error).strip().splitlines() or [type(error).__name__])[0])


def _add_plugins() -> None:
    """Make the choices of plug-ins known to Hydra, as if each had a file in `configs/`."""
    for group in GROUPS_OF_PLUGINS:
        for name in plugin_choices(group):
            ConfigStore.instance().store(group=group, name=name, node=read_choice(group, name))


# --- before Hydra ----------------------------------------------------------------------------------------------------


def _key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _check(config_name: str, overrides: Iterable[str]) -> None:
    """Raises UserError for mistakes that Hydra would accept or explain badly."""
    groups, sections = defaults_of(config_name), _sections(config_name)
    given = set()
    for override in overrides:
        if override.startswith("~"):
            raise UserError(f"'{short(override)}' would remove an option: options are written key=value")
        if "=" not in override or not _key_of(override):
            raise UserError(
                f"'{short(override)}' is not an option: options are written key=value, for example env=push"
            )
        key, value = _key_of(override), override.partition("=")[2].strip("'\"")
        if key.partition(".")[0].partition("/")[0] == "hydra":
            raise UserError(f"option '{short(override)}' does not fit: options of Hydra's cannot be set here")
        if key in groups and value not in group_choices(key):
            raise UserError(choices_message(key, short(value), group_choices(key)))
        if "@" in key:
            raise UserError(f"option '{short(override)}' does not fit: options are written key=value")
        if override.startswith("+") and "." not in key:
            raise UserError(choices_message("option", short(key), _top(config_name)))
        if key in sections and not value.lstrip().startswith("{"):
            raise UserError(
                f"option '{short(override)}' does not fit: {key} is a section, with options written {key}.key=value"
            )
        given.add(key)
    for group, choice in groups.items():
        if choice == "???" and group not in given:
            choices = group_choices(group)
            raise UserError(f"{group} is missing: choose from {', '.join(choices)}, for example {group}={choices[0]}")


def usual_overrides(config_name: str, overrides: Iterable[str]) -> list[str]:
    """The options that follow from the environment, unless the user typed others.

    They are the usual planner, and the name that an environment has with another body.

    Raises:
        UserError: for a sweep over environments whose planners differ.
    """
    groups = defaults_of(config_name)
    given = {_key_of(override): override.partition("=")[2].strip("'\"") for override in overrides}
    envs = [env for env in given.get("env", groups.get("env", "")).split(",") if env in group_choices("env")]
    return [*_usual_planner(envs, groups, given), *_name_of_body(envs, given)]


def _usual_planner(envs: Sequence[str], groups: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    chosen = given.get("planner", "")
    if "planner" not in groups or chosen not in ("", "auto"):
        return []
    usual = {configs.usual_planner(env) for env in envs}
    if len(usual) > 1:
        raise UserError(
            f"env={short(','.join(envs))}: these have different planners unless one is chosen: give planner="
        )
    names = [name for name in usual if name]
    return [f"planner.otherwise={name}" if chosen else f"planner={name}" for name in names]


def _name_of_body(envs: Sequence[str], given: Mapping[str, str]) -> list[str]:
    body, name = given.get("env.body", ""), given.get("env.name")
    if len(envs) != 1 or not body.isalnum():
        return []
    name = name or str(configs.read_choice("env", envs[0]).get("name", envs[0]))
    named = configs.with_body(name, body)
    return [f"env.name={named}"] if named != name else []


def following(pattern: str, chosen: Mapping[str, str]) -> str:
    """What a pattern in a file's defaults, such as `${choice_for:collect_for,${env}}`, is with these choices."""
    return str(OmegaConf.create({**chosen, "pattern": pattern})["pattern"])


def _top(config_name: str) -> list[str]:
    """The names that can be set in a command, without the options within its sections."""
    names = (*_read(config_name), *defaults_of(config_name))
    return [name for name in names if name not in ("defaults", "hydra") and "@" not in name]


def defaults_of(config_name: str) -> dict[str, str]:
    """The groups that a command's file takes, with the default choice of each; ??? if the user has to choose."""
    content = _read(config_name)
    entries = [entry for entry in content["defaults"] if isinstance(entry, dict)]
    chosen = {str(key): str(value) for entry in entries for key, value in entry.items()}
    return {key: value for key, value in chosen.items() if not key.startswith("override ")}


@cache
def _read(name: str) -> dict[str, Any]:
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert isinstance(content, dict)
    return content


def _sections(config_name: str) -> set[str]:
    """Dotted names of all sections of a command, for all choices of its groups."""
    content = {k: v for k, v in _read(config_name).items() if k not in ("defaults", "hydra")}
    found = set(_inner_sections(content))
    for group in defaults_of(config_name):
        if "@" not in group:
            for choice in group_choices(group):
                found |= {f"{group}.{name}" for name in _inner_sections(read_choice(group, choice))}
    return found


def _inner_sections(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield str(key)
            yield from (f"{key}.{name}" for name in _inner_sections(value))


# --- after Hydra -----------------------------------------------------------------------------------------------------


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
    except Exception as error:  # see `composed`
        return not isinstance(error, HydraException | ValueError | RecursionError)


def _explain(error: Exception, config_name: str, overrides: list[str]) -> str:
    """Turn Hydra's error about `overrides` into one line with the valid choices."""
    text = str(error)
    for override in overrides:
        if not _is_one_value(override):
            key, _, value = override.partition("=")
            if len(value) > _LONGEST and re.fullmatch(r"[-+]?[0-9][0-9_]*", value):
                return f"option '{short(override)}' cannot be read: a number of so many digits is none that we know"
            quoted = "" if len(value) > _LONGEST else f": \"{key}='{value}'\""
            return f"option '{short(override)}' cannot be read: a value with special characters needs quotes{quoted}"
    # The longest key comes first, since an error about `env.distractor` also contains `env`.
    for override in sorted(overrides, key=lambda o: -len(_key_of(o))):
        key = _key_of(override)
        if key and (f"'{key.split('.')[-1]}'" in text or key in text):
            base = compose(config_name, [o for o in overrides if o.startswith("env=")])
            accepted = _option_keys(base)
            nearest = difflib.get_close_matches(key, accepted, n=1, cutoff=0.4)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            here = [k for k in accepted if k.rpartition(".")[0] == key.rpartition(".")[0]]
            siblings = sorted(here or map(str, base))
            return f"option '{short(override)}' does not fit: options here are {', '.join(siblings)}{hint}"
    return _first_line(error)


# --- what all commands check ------------------------------------------------------------------------------------------

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LONGEST_NAME: Final = 100


def require_name(option: str, value: object) -> str:
    """`value` if it is a name for a folder, which cannot lead out of its parent folder.

    Raises:
        UserError: for any other value.
    """
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not _NAME.fullmatch(value):
        raise UserError(
            f"{option} {short(repr(value))} cannot be used: expected a name of letters, digits, '_', '-' and '.', "
            f"which does not begin with '-' or '.', of at most {_LONGEST_NAME} characters"
        )
    return value
