"""The text of `--help`. It is made from the configuration files, whose comments explain every option."""

from __future__ import annotations

from collections.abc import Sequence

from worldmodel.cli.composing import defaults_of, following, usual_overrides
from worldmodel.core.configs import CONFIGS, choice_text, group_choices, is_at_the_top
from worldmodel.core.errors import UserError, choices_message

_INTRODUCTION = """\
Options are written key=value, and section.key=value in a section. Here they are, with their values and meanings, as the
files in {folder} have them."""


def help_text(config_name: str, overrides: Sequence[str] = ()) -> str:
    """The usage and purpose of a command, and `configs/<config_name>.yaml` with the groups that it takes.

    Args:
        config_name: name of the command's file.
        overrides: choices of groups, for example `env=reacher`. Their files are shown instead of the default ones.

    Raises:
        UserError: for a choice that does not exist.
    """
    text = _read(config_name)
    header = [line.removeprefix("# ") for line in text.partition("defaults:")[0].splitlines()]
    introduction = _INTRODUCTION.format(folder=CONFIGS)
    parts = [header[-1], "\n".join(f"  {line}" for line in header[:-1]), introduction, *_options(text)]
    typed = [*usual_overrides(config_name, overrides), *overrides]
    chosen = {key: value.strip("'\"") for key, _, value in (override.partition("=") for override in typed)}
    for entry, default in defaults_of(config_name).items():
        group, _, section = entry.removeprefix("optional ").partition("@")
        if group != entry:  # other choices decide, as in `optional collect_for: ${choice_for:collect_for,${env}}`
            name = "" if "???" in chosen.values() else following(default, chosen)
            if name in group_choices(group):
                parts += [f"In {section}:" if section else f"For {name}:", choice_text(group, name)]
            continue
        name = chosen.setdefault(group, default)
        choices = [f"{group}={other}" for other in group_choices(group) if other != name]
        if name == "???":
            parts.append(f"{group} has to be chosen: {', '.join(choices)}; `{choices[0]} --help` shows its options.")
            continue
        if name not in group_choices(group):
            raise UserError(choices_message(group, name, group_choices(group)))
        instead = f" (or {', '.join(choices)})" if choices else ""
        written = "as they stand here" if is_at_the_top(group, name) else f"{group}.key=value"
        parts.append(f"{group}={name}{instead}, its options written {written}:")
        parts.append(choice_text(group, name))
    return "\n\n".join(parts)


def _read(name: str) -> str:
    return (CONFIGS / f"{name}.yaml").read_text()


def _options(text: str) -> list[str]:
    """The paragraphs of a command's file, without those for Hydra."""
    paragraphs = text.strip().split("\n\n")
    return [p for p in paragraphs if not any(line in ("defaults:", "hydra:") for line in p.splitlines())]
