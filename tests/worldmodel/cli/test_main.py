"""`wm`: every command from any folder."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest

from tests.source_tree import ROOT
from worldmodel.cli.main import main
from worldmodel.cli.programs import PROGRAMS, as_typed


def wm(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("worldmodel.cli.main.until_main", lambda *, is_command: None)
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/wm", *arguments])
    try:
        return main()
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_alone_it_lists_the_commands(monkeypatch, capsys: pytest.CaptureFixture, arguments: tuple[str, ...]) -> None:
    assert wm(monkeypatch, *arguments) == 0
    told = capsys.readouterr()
    assert told.err == ""
    for name, program in PROGRAMS.items():
        assert re.search(rf"^  wm {name} +{re.escape(program.purpose)}$", told.out, re.MULTILINE)


def test_the_version(monkeypatch, capsys: pytest.CaptureFixture) -> None:
    assert wm(monkeypatch, "--version") == 0
    assert re.fullmatch(r"wm (\d+\.\d+\.\d+|\(not installed\))\n", capsys.readouterr().out)


def test_an_unknown_command_is_suggested(monkeypatch, capsys: pytest.CaptureFixture) -> None:
    assert wm(monkeypatch, "colect", "env=push") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: unknown command 'colect': choose from calibrate, clips, collect, compare, ")
    assert told.err.endswith("(did you mean collect?)\n")


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_every_command_is_there(name: str) -> None:
    assert importlib.util.find_spec(PROGRAMS[name].module) is not None
    module = ROOT.joinpath(*PROGRAMS[name].module.split("."))
    config = PROGRAMS[name].config
    assert config is None or f"python -m {PROGRAMS[name].module} " in (ROOT / "configs" / f"{config}.yaml").read_text()
    file = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
    assert re.search(r"^(def main\(|main = )", file.read_text(), re.MULTILINE)


def test_options_and_help_reach_the_command(monkeypatch, capsys: pytest.CaptureFixture, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert wm(monkeypatch, "goal", "--help") == 0
    assert "  wm goal env=push seed=3 out=img.png\n" in capsys.readouterr().out
    assert wm(monkeypatch, "goal", "env=pussh") == 2
    assert "did you mean push?" in capsys.readouterr().err
    assert wm(monkeypatch, "data", "verify", "nowhere.zarr") == 2
    assert "no recording at nowhere.zarr: make one with `wm collect`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_to_be_typed_next_is_written_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "next: python -m planning.run env=push; `python -m worldmodel.data` and python -m pip stay"
    monkeypatch.setattr(sys, "argv", ["/home/me/envs/collect.py"])
    assert as_typed(line) == line
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/wm"])
    assert as_typed(line) == "next: wm plan env=push; `wm data` and python -m pip stay"
