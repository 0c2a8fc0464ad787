"""The examples run as they stand, and the optimiser of one keeps what every optimiser promises."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from planning.optimisers.base import SamplingConfig
from planning.registry import make_optimiser
from planning.settings import read_settings
from planning.types import Optimiser
from tests.planning.optimisers.conformance import OptimiserConformance
from worldmodel.core import registry

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "says"), [("load_and_imagine", "expected cost: "), ("own_planner", "found tensor([ 0.")]
)
def test_an_example_runs(tmp_path: Path, name: str, says: str) -> None:
    line = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert says in ended.stdout
    assert list(tmp_path.iterdir()) == []


def own_planner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_planner", ROOT / "examples" / "own_planner.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    own_planner()
    yield
    del registry._registered["optimiser"]["halving"]


class TestOwnPlanner(OptimiserConformance):
    tolerance = 0.1

    def make(self) -> Optimiser:
        options = {"samples": 1024, "iterations": 12, "action_repeat": 5, "result": "best"}
        return make_optimiser("halving", options)


def test_an_optimiser_without_a_file_has_the_defaults_of_its_options() -> None:
    settings = read_settings({"planner": "halving", "options.action_repeat": 2})
    assert settings["name"] == "halving" and settings["options"]["samples"] == SamplingConfig().samples
    assert settings["options"]["action_repeat"] == 2
    assert settings["objective"]["steps"] == "mix"
