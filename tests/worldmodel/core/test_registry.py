from __future__ import annotations

from importlib import metadata

import pytest

from worldmodel.core import registry
from worldmodel.core.errors import UserError
from worldmodel.core.registry import PluginError, Registry, register


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {kind: {} for kind in registry.KINDS})
    monkeypatch.setattr(registry, "_loaded", [])


def install(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """As if an installed package had this entry point."""
    point = metadata.EntryPoint("theirs", value, registry.ENTRY_POINTS)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == registry.ENTRY_POINTS else [])


def add() -> None:
    """What a plug-in does when it is loaded."""
    register("optimiser", "hill", "an entry")


def broken() -> None:
    raise RuntimeError("no license\nsecond line")


def test_ours_are_imported_when_asked_for() -> None:
    ours: Registry[object] = Registry("optimiser", "planner", {"path": "pathlib:Path", "three": 3})
    from pathlib import Path

    assert ours.get("path") is Path and ours.get("three") == 3
    assert ours.names() == ["path", "three"] and "path" in ours and "four" not in ours


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(UserError, match=r"unknown planner 'cim': choose from cem \(did you mean cem\?\)"):
        Registry("optimiser", "planner", {"cem": 1}).get("cim")


def test_a_program_adds_an_entry() -> None:
    register("optimiser", "mine", 7)
    found: Registry[int] = Registry("optimiser", "planner", {"cem": 1})
    assert found.get("mine") == 7 and found.names() == ["cem", "mine"]
    assert "mine" not in Registry("encoder", "encoder", {})


def test_an_installed_package_adds_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, f"{__name__}:add")
    assert Registry("optimiser", "planner", {}).names() == ["hill"]


def test_a_plug_in_that_fails_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, f"{__name__}:broken")
    with pytest.raises(PluginError, match=r"plug-in theirs \(.*broken\) cannot be loaded: RuntimeError: no license$"):
        Registry("optimiser", "planner", {}).names()


def test_a_name_is_taken_once() -> None:
    register("optimiser", "mine", add)
    register("optimiser", "mine", add)
    with pytest.raises(UserError, match="optimiser 'mine' is registered already"):
        register("optimiser", "mine", broken)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="unknown kind of plug-in 'planet'"):
        register("planet", "mars", 4)
