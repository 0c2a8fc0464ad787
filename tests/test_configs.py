"""The files in `configs/`, which tell the user what every option means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.commands import assert_refused, type_in
from tests.source_tree import ROOT
from worldmodel.core.configs import usual_planner

CONFIGS = ROOT / "configs"
COMMANDS = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
CHOICES = sorted(f"{p.parent.name}/{p.stem}" for p in CONFIGS.glob("*/*.yaml"))
# Groups that no user chooses from, since another one's choice decides: `optional group@section: ${env}`, or no section.
FOLLOWING = {"planner_for", *re.findall(r"- optional (\w+)\b", "".join(p.read_text() for p in CONFIGS.glob("*.yaml")))}
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


def unexplained(text: str, elsewhere: str = "") -> list[str]:
    """Keys of values without a comment on their line, which `elsewhere` does not explain either."""
    known = {name for name, _ in lines_of_values(elsewhere)} - set(unexplained(elsewhere)) if elsewhere else set()
    return [
        name
        for name, line in lines_of_values(text)
        if name not in known and not re.search(r"\s# ?\w", line.partition(":")[2])
    ]


# A recipe changes options of this file, which explains them.
EXPLAINED_IN = {"recipe": "pretrain"}


def elsewhere(name: str) -> str:
    """The file that explains the options in file `name`, if it is another one."""
    explains = EXPLAINED_IN.get(name.partition("/")[0])
    return (CONFIGS / f"{explains}.yaml").read_text() if explains else ""


@pytest.mark.parametrize("name", [*COMMANDS, *CHOICES])
def test_every_option_is_explained_on_its_line(name: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert list(lines_of_values(text))
    assert unexplained(text, elsewhere(name)) == []
    assert [line for line in text.splitlines() if len(line) > LONGEST_LINE] == []


def test_what_is_not_explained_is_found() -> None:
    text = "defaults:\n  - env: push\na: 1  # one\nb: 2\nc:  # three\n  d: [4]\n  e: {f: 5}\n  g: 6 #\n"
    assert unexplained(text) == ["b", "c.d", "c.e.f", "c.g"]


def header_of(name: str) -> list[str]:
    """The first lines of a command's file: how it is typed, then what it does."""
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    return lines[: lines.index("defaults:")]


def module_of(name: str) -> str:
    """What is typed after `python -m`."""
    found = [re.match(r"# python -m (\S+) \S", line) for line in header_of(name)[:-1]]
    (module,) = {match[1] for match in found if match}
    assert None not in found
    return module


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_begins_with_how_it_is_typed_and_what_it_does(name: str) -> None:
    header, module = header_of(name), module_of(name)
    assert f'command("{name}"' in Path(ROOT, *module.split(".")).with_suffix(".py").read_text()
    assert re.fullmatch(r"# [A-Z].*\.", header[-1])


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_begins_with_how_it_is_typed_and_what_it_is(name: str) -> None:
    # What a family has is not filed under `family`: its options are typed without it.
    first = (CONFIGS / f"{name}.yaml").read_text().removeprefix("# @package _global_\n").splitlines()[0]
    if name.partition("/")[0] in FOLLOWING:
        assert first.startswith("# ")
        return
    assert re.fullmatch(rf"# {name.replace('/', '=')}[: ].*\w", first.rstrip(")"))


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_what_the_files_say(tmp_path: Path, name: str, flag: str) -> None:
    ended = type_in(tmp_path, module_of(name), flag)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    *examples, purpose = (line.removeprefix("# ") for line in header_of(name))
    assert lines[0] == purpose
    assert [line.strip() for line in lines if line.startswith("  python -m ")] == examples
    assert str(CONFIGS) in ended.out
    text = (CONFIGS / f"{name}.yaml").read_text()
    taken = {group: choice for group, choice in re.findall(r"^  - (\w+): (\w+)(?: +#.*)?$", text, re.MULTILINE)}
    if "planner" in taken and "env" in taken:  # an environment may have its own
        taken["planner"] = usual_planner(taken["env"]) or taken["planner"]
    texts = [text, *((CONFIGS / group / f"{choice}.yaml").read_text() for group, choice in taken.items())]
    for shown in texts:
        assert {line for _, line in lines_of_values(shown)} <= set(lines)
    groups = {choice.partition("/")[0] for choice in CHOICES}
    assert set(re.findall(r"^(\w+)=\w+.*, its options written", ended.out, re.MULTILINE)) == set(taken)
    assert set(taken) <= groups
    assert not re.search("hydra|^defaults", ended.out, re.IGNORECASE | re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_help_shows_the_choice_that_is_asked_for(tmp_path: Path) -> None:
    ended = type_in(tmp_path, "envs.goal", "env=reacher", "--help")
    assert ended.code == 0
    assert re.search(
        r"^env=reacher \(or env=arm_drawer, .*env=dm_control, .*env=push.*\), its options written env\.key=value:$",
        ended.out,
        re.M,
    )
    assert "success_joints: [shoulder, wrist]" in ended.out
    assert "distractors" not in ended.out


def test_help_refuses_what_is_not_there(tmp_path: Path) -> None:
    assert_refused(type_in(tmp_path, "envs.goal", "--help", "env=pussh"), "did you mean push?")
