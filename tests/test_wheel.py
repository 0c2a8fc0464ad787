"""What a user gets who installs the wheel: `wm`, from any folder, and packages that add to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.source_tree import PACKAGES, ROOT
from worldmodel.cli.programs import PROGRAMS

# Each of them would end a command that imported it.
MINE = ("configs/__init__.py", "envs/__init__.py", "planning.py", "worldmodel.py", "yaml.py")
PLUGIN = '''
import dataclasses, types
from worldmodel.core.registry import register

@dataclasses.dataclass(frozen=True)
class Config:
    """Mine.

    Attributes:
        speed: how fast.
    """
    speed: float = 0.5

def add():
    register("env", "my_env", types.SimpleNamespace(config=Config))
    register("optimiser", "my_search", types.SimpleNamespace(config=Config))
    register("encoder", "my_encoder", types.SimpleNamespace(config=Config))
'''

# As `wm` does for every command, with the imports of one process.
HELP = """
import sys
from worldmodel.cli.main import main
from worldmodel.cli.programs import PROGRAMS
for name in PROGRAMS:
    sys.argv = ["wm", name, "--help"]
    try:
        assert main() == 0
    except SystemExit as end:
        assert end.code == 0
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `wm` in an environment that holds the wheel of this checkout, built and installed offline."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for package in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    call([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source], folder)
    (wheel,) = folder.glob("*.whl")
    call([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], folder)
    python = folder / "venv" / "bin" / "python"
    # The dependencies are those of this environment; its own editable installation is not among them.
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    call([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], folder)
    (site / "my_plugin.py").write_text(PLUGIN)
    (site / "my_plugin-1.dist-info").mkdir()
    (site / "my_plugin-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: my_plugin\nVersion: 1\n")
    entry = "[worldmodel.plugins]\nmine = my_plugin:add\n"
    (site / "my_plugin-1.dist-info" / "entry_points.txt").write_text(entry)
    return folder / "venv" / "bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, with modules of the names of ours."""
    for name in MINE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    return tmp_path


def call(command: list[object], folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_every_command_is_there_whatever_lies_around(installed: Path, folder: Path) -> None:
    wm = installed / "wm"
    assert call([wm, "--version"], folder).startswith("wm 0.")
    overview, explained = call([wm], folder), call([installed / "python", "-Pc", HELP], folder)
    for name in PROGRAMS:
        assert f"  wm {name} " in overview and f"wm {name}" in explained
    assert "wm plan" in call([wm, "plan", "--help"], folder)
    where = [installed / "python", "-Pc", "import worldmodel; print(worldmodel.__file__)"]
    assert str(ROOT) not in call(where, folder)


def test_recording_by_workers_and_looking_at_it(installed: Path, folder: Path) -> None:
    wm = installed / "wm"
    told = call([wm, "collect", "env=push", "episodes=4", "episode_steps=5", "workers=2"], folder)
    assert "next: wm pretrain env=push" in told
    assert "4 episodes of 5 steps" in call([wm, "data", "inspect", "runs/push/data.zarr"], folder)
    assert "next: wm plan env=push goal=img.png" in call([wm, "goal", "env=push", "seed=3", "out=img.png"], folder)
    kept = {*(Path(name).parts[0] for name in MINE), "runs", "img.png"}
    assert {path.name for path in folder.iterdir()} == kept


def test_a_package_adds_an_environment_a_planner_and_an_encoder(installed: Path, folder: Path) -> None:
    told = call([installed / "wm", "plan", "--help", "planner=my_search", "env=my_env"], folder)
    assert "planner=my_search (or planner=adam" in told
    assert "speed: 0.5  # how fast." in told
    assert "encoder=my_encoder" in call([installed / "wm", "pretrain", "--help"], folder)
