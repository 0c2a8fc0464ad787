"""The files in `configs/`, which tell the user what every option means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.source_tree import ROOT

CONFIGS = ROOT / "configs"
COMMANDS = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
CHOICES = sorted(f"{p.parent.name}/{p.stem}" for p in CONFIGS.glob("*/*.yaml"))
# What Hydra reads, and no user changes.
NOT_OPTIONS = ("defaults", "hydra")
LONGEST_LINE = 120


def lines_of_values(text: str) -> Iterator[tuple[str, str]]:
    """Dotted key and line of every value in a file that is not a section; a list is one value."""
    lines = text.splitlines()

    def walk(node: yaml.Node, prefix: str) -> Iterator[tuple[str, str]]:
        assert isinstance(node, yaml.MappingNode)
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if name in NOT_OPTIONS:
                continue
            if isinstance(value, yaml.MappingNode):
                yield from walk(value, f"{name}.")
            else:
                yield name, lines[key.start_mark.line]

    return walk(yaml.compose(text), "")


def unexplained(text: str) -> list[str]:
    """Keys of values without a comment on their line."""
    return [name for name, line in lines_of_values(text) if not re.search(r"\s# ?\w", line.partition(":")[2])]


@pytest.mark.parametrize("name", [*COMMANDS, *CHOICES])
def test_every_option_is_explained_on_its_line(name: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert list(lines_of_values(text))
    assert unexplained(text) == []
    assert [line for line in text.splitlines() if len(line) > LONGEST_LINE] == []


def test_what_is_not_explained_is_found() -> None:
    text = "defaults:\n  - env: push\na: 1  # one\nb: 2\nc:  # three\n  d: [4]\n  e: {f: 5}\n  g: 6 #\n"
    assert unexplained(text) == ["b", "c.d", "c.e.f", "c.g"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_begins_with_how_it_is_typed_and_what_it_does(name: str) -> None:
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    header = lines[: lines.index("defaults:")]
    (module,) = {re.match(r"# python -m (\S+) \S", line)[1] for line in header[:-1]}  # type: ignore[index]
    path = Path(ROOT, *module.split(".")).with_suffix(".py")
    assert f'command("{name}")' in path.read_text()
    assert re.fullmatch(r"# [A-Z].*\.", header[-1])


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_begins_with_how_it_is_typed_and_what_it_is(name: str) -> None:
    first = (CONFIGS / f"{name}.yaml").read_text().splitlines()[0]
    assert re.fullmatch(rf"# {name.replace('/', '=')}[: ].*\w", first.rstrip(")"))
