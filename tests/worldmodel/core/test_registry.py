from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

import pytest

from worldmodel.core import registry
from worldmodel.core.errors import UserError
from worldmodel.core.registry import PluginError, Registry, register


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {kind: {} for kind in registry.KINDS})
    monkeypatch.setattr(registry, "_loaded", [])
    monkeypatch.setattr(registry, "_ours", {kind: set() for kind in registry.KINDS})
    yield
    registry._installed.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """As if an installed package had this entry point."""
    point = metadata.EntryPoint("theirs", value, registry.ENTRY_POINTS)
    registry._installed.cache_clear()
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


@pytest.mark.parametrize("name", ["nan", "true", "Null", "inf", "12", "1e3", "off"])
def test_a_name_that_nobody_could_type_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"name of the env is '{name}': a command would not read it as text"):
        register("env", name, 7)


def test_packages_are_read_again_only_when_the_path_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(metadata, "entry_points", lambda group: asked.append(group) or [])
    registry._installed.cache_clear()
    for _ in range(3):
        registry.plugins("env")
    assert len(asked) == 1
    monkeypatch.syspath_prepend("elsewhere")
    registry.plugins("env")
    assert len(asked) == 2


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


def test_a_name_of_ours_is_taken() -> None:
    """A changed planner that was registered as `cem` was passed over without a word, and ours took its place."""
    Registry("optimiser", "planner", {"cem": 1})
    with pytest.raises(UserError, match="optimiser 'cem' is registered already: choose another name"):
        register("optimiser", "cem", 7)


def test_a_name_of_ours_is_taken_before_ours_are_known_too() -> None:
    register("optimiser", "cem", 7)
    with pytest.raises(PluginError, match="optimiser 'cem' is registered already"):
        Registry("optimiser", "planner", {"cem": 1}).names()


@pytest.mark.parametrize("name", ["../zz", "", "a b", 3, "x" * 65])
def test_a_name_can_be_typed_and_filed(name: object) -> None:
    with pytest.raises(UserError, match=r"name of the env is .*: expected at most 64 letters"):
        register("env", name, 1)  # type: ignore[arg-type]


def test_an_entry_is_of_its_kind() -> None:
    found: Registry[int] = Registry("env", "env", {}, int)
    register("env", "one", 1)
    register("env", "kind", bool)  # where a class is wanted, a class derived from it
    assert found.get("one") == 1 and found.get("kind") is bool
    register("env", "two", "2")
    with pytest.raises(PluginError, match="env 'two' is registered as str: expected int"):
        found.get("two")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="unknown kind of plug-in 'planet'"):
        register("planet", "mars", 4)
