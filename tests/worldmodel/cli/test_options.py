"""Whatever is typed behind a command ends in one line: hostile options, and what each of them used to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from tests.commands import assert_refused, type_in
from tests.test_defaults import COMMANDS, READ_OTHERWISE, SECTIONS
from worldmodel.cli.command import _checked
from worldmodel.cli.composing import as_plain, composed, defaults_of, require_name
from worldmodel.core.errors import UserError, printable
from worldmodel.core.options import from_config

DIGITS = "9" * 5000
VALUES = (
    "", "null", "true", "-1", "0", "1.5", "nan", "inf", "-inf", "1e999", "1e400", "9" * 19, "-" + "9" * 30, DIGITS,
    f"0x{'f' * 5000}", f"1e{DIGITS}", "[]", "[[]]", "[null]", "{}", "{a:1}", "{a:{b:{c:1}}}", "[" * 500, "]", "{", "'",
    '"', "\\", ",", "a,b", "(", "choice(1,2)", "range(1,1000000000)", "glob(*)", "int(5)", "${", "${}", "${x}", "${..}",
    "${out}", "${env}", "${oc.env:NOTHING_IS_CALLED_THIS}", "${oc.decode:'{'}", "${hydra:job.name}", "???", "../x",
    "/etc/passwd", "x" * 5000, "é", "日本", "\x1b[31m", "[/]", "[red]x", "a b", "%s", "--help", "=", "a=b",
    "!!python/x", "*a", "&a", "~", "\t", "0o17", "1_000", "1__0", ".", "..", "~/x", "con", "$(reboot)",
)  # fmt: skip
KEYS = ("env", "planner", "predictor", "encoder", "", "x", "x.y", ".", "..", "hydra.run.dir", "hydra", "_target_",
        "env@x", "env/x", "objective_for@planner.objective", "defaults", "package", "seed[0]")  # fmt: skip
PREFIXES = ("", "", "", "+", "++", "~", "+~")


def option_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items_ex(resolve=False):
        keys.append(f"{prefix}{key}")
        if isinstance(value, DictConfig):
            keys += option_keys(value, f"{prefix}{key}.")
    return keys


def read_all(command: str, overrides: list[str]) -> None:
    """What a command does with its options before it begins. Raises UserError and nothing else."""
    config = _checked(as_plain(composed(command, overrides, with_hydra=True)))

    def read(name: str, values: dict[str, Any]) -> None:
        beside = READ_OTHERWISE.get(name or command, set())
        own = {k: v for k, v in values.items() if not isinstance(v, dict) and k not in beside}
        cls = COMMANDS[command] if not name else SECTIONS.get(name)
        is_default = name != "env" or values.get("name") == "push"
        if cls is not None and is_default and not (name.startswith("planner") and config["planner"]["name"] != "cem"):
            from_config(cls, own, name or command)
        for key, value in values.items():
            if isinstance(value, dict):
                read(f"{name}.{key}".lstrip("."), value)

    read("", config)


@pytest.mark.parametrize("command", ["collect", "compare", "evaluate", "manifest", "pretrain", "run", "train"])
def test_hostile_options_are_refused_in_one_line_or_taken(command: str) -> None:
    given = [f"{group}=push" for group, choice in defaults_of(command).items() if choice == "???"]
    keys = [*option_keys(composed(command, given)), *KEYS]
    rng = np.random.default_rng(sum(map(ord, command)))
    for _ in range(45):
        override = f"{rng.choice(PREFIXES)}{rng.choice(keys)}={rng.choice(VALUES)}"
        try:
            read_all(command, [*given, override])
        except UserError as error:
            line = printable(str(error))
            assert 0 < len(line) < 1100 and line.isprintable(), override
        except Exception as error:
            raise AssertionError(f"{override[:200]} ended in {error!r}") from error


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("worldmodel.pretrain", ["env=null"], "unknown env 'null': choose from dm_control, push"),
        ("worldmodel.pretrain", ["out=${out}"], "options cannot be resolved: "),
        ("worldmodel.pretrain", ["env.image_size=100000000"], "env.image_size 100000000 cannot be used: expected a"),
        ("envs.collect", ["env=push", "env.image_size=100000"], "expected a whole number from 1 to 2048"),
        ("envs.collect", ["env=push", f"episodes={DIGITS}"], "a number of so many digits"),
        (
            "envs.collect",
            ["env=push", "episodes=" + "9" * 30],
            "expected a whole number of at most 9223372036854775807",
        ),
        (
            "envs.collect",
            ["episodes=3"],
            "env is missing: choose from dm_control, push, reacher, robot, for example env=",
        ),
        ("planning.run", ["planner=../env/push"], "unknown planner '../env/push': choose from cem, random_shooting"),
        ("planning.run", ["planner=null"], "unknown planner 'null'"),
        ("planning.run", ["planner.options=5"], "planner.options is a section"),
        ("worldmodel.pretrain", ["env.name=../x"], "env.name '../x' cannot be used: expected a name of letters"),
        ("worldmodel.pretrain", ["env.name="], "env.name '' cannot be used"),
        ("worldmodel.pretrain", ["env=robot", "env.name=.hidden"], "env.name '.hidden' cannot be used"),
        ("worldmodel.train", ["env.name=a/b"], "env.name 'a/b' cannot be used"),
        ("envs.goal", ["hydra.run.dir=elsewhere"], "options of Hydra's cannot be set here"),
        ("worldmodel.train", ["~trainer"], "would remove an option"),
        ("planning.run", ["goal=\x1b]0;owned\x07.png"], "goal=\\x1b]0;owned\\x07.png"),
    ],
)
def test_what_used_to_end_otherwise(tmp_path: Path, module: str, options: list[str], message: str) -> None:
    assert_refused(type_in(tmp_path, module, *options), message)
    assert list(tmp_path.iterdir()) == []


def test_names_that_folders_may_have() -> None:
    assert require_name("env.name", "push_2-b.c") == "push_2-b.c"
    for name in ("", ".", "..", "a/b", "a\\b", "-x", "é", "a b", "x" * 101, None, 3):
        with pytest.raises(UserError, match=r"env\.name .* cannot be used: expected a name"):
            require_name("env.name", name)
