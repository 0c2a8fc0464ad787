"""The rules of ARCHITECTURE.md, held by walking the source.

Every rule has a counterpart that breaks it, so that a walker that finds nothing cannot pass for a tidy project.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from packaging.requirements import Requirement

from tests.source_tree import (
    PACKAGES,
    ROOT,
    Module,
    crossings,
    find_cycle,
    forbidden_calls,
    imports,
    long_functions,
    read_modules,
    room_of,
    third_party_imports,
)
from worldmodel.cli.composing import composed
from worldmodel.core.configs import CONFIGS, choice_for, read_choice

# Every room, and the rooms that it may enter. What is not listed here is not allowed.
LEARNING = {"worldmodel.core", "worldmodel.data", "worldmodel.encoders", "worldmodel.models", "worldmodel.training"}
ROOMS: dict[str, set[str]] = {
    "worldmodel.core": set(),
    "worldmodel.cli": {"worldmodel.core"},
    "worldmodel.data": {"worldmodel.core"},
    "worldmodel.training": {"worldmodel.core", "worldmodel.data"},
    "worldmodel.encoders": {"worldmodel.core", "worldmodel.data", "worldmodel.training"},
    "worldmodel.models": {"worldmodel.core", "worldmodel.data", "worldmodel.encoders", "worldmodel.training"},
    "worldmodel.surprise": {"worldmodel.core", "worldmodel.data", "worldmodel.encoders", "worldmodel.models"},
    "worldmodel": LEARNING | {"worldmodel.surprise"},
    "planning": {"worldmodel.core"},
    "envs": {"worldmodel.core"},
}
# Commands read options, print and join rooms; so do the parts of `worldmodel.data` that are its command's.
COMMANDS_OF_OURS = {
    "envs.clips",
    "envs.collect", "envs.goal", "envs.physics_clips", "planning.calibrate", "planning.compare", "planning.display",
    "planning.evaluate",
    "planning.manifest", "planning.run", "worldmodel.data.__main__", "worldmodel.data.formats.commands",
    "worldmodel.decode", "worldmodel.export", "worldmodel.features", "worldmodel.physics",
    "worldmodel.landmarks",
    "planning.practise", "planning.remember", "planning.rounds", "worldmodel.inverse",
    "worldmodel.pretrain", "worldmodel.probe", "worldmodel.train",
}  # fmt: skip
# Where planning meets environments, models and recordings, for its commands and for a robot.
JOINS = {"planning.loading", "planning.recording", "planning.simulation"}
PRINTS = "worldmodel.cli.command"
COMMAND_LINE_LIBRARIES = {"hydra", "omegaconf", "rich"}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 59
MODULES = read_modules()
YAML_FILES = sorted((ROOT / "configs").rglob("*.yaml"))
GROUPS = sorted(p.name for p in (ROOT / "configs").iterdir() if any(p.glob("*.yaml")))
COMMANDS = sorted(p.stem for p in (ROOT / "configs").glob("*.yaml"))
# The name that a dependency is installed by, where it is not the one that it is imported by.
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml", "hydra-core": "hydra", "rerun-sdk": "rerun"}
# Needed by a dependency that does not declare it, or only as an extra (see pyproject.toml).
IMPORTED_BY_OTHERS = {"onnx", "onnxscript", "packaging", "s3fs", "tensorboard"}
# Extras that the packages themselves import, where somebody asks for it.
EXTRAS = ("formats", "onnx", "remote", "s3", "view")


def _modules(**sources: str) -> dict[str, Module]:
    """Modules for the counterparts: `planning__cem="import torch"`; a name without `__` is a package's `__init__`."""
    names = {key: key.replace("__", ".") for key in sources}
    return {name: Module.parse(name, sources[key], "." not in name) for key, name in names.items()}


# --- imports ---------------------------------------------------------------------------------------------------------


def test_only_commands_and_joins_cross_rooms() -> None:
    assert crossings(MODULES, ROOMS, COMMANDS_OF_OURS | JOINS) == []


def test_every_command_and_join_crosses() -> None:
    crossing = {line.split(" imports ")[0] for line in crossings(MODULES, ROOMS)}
    assert crossing == COMMANDS_OF_OURS | JOINS


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("planning__optimisers__cem", "from worldmodel.encoders.vit import Block"),
        ("planning__optimisers__cem", "import envs"),
        ("worldmodel__encoders__vit", "def f():\n    from planning import types"),
        ("worldmodel__encoders__vit", "from worldmodel.models import keypoint"),
        ("envs__push", "import importlib\nimportlib.import_module('worldmodel.encoders.vit')"),
        ("envs__push", "from worldmodel.cli.console import console"),
        ("worldmodel__core__files", "from worldmodel.data import Episode"),
        ("worldmodel__data__clips", "import worldmodel.cli.progress"),
    ],
)
def test_a_crossing_is_found(name: str, source: str) -> None:
    (found,) = crossings(_modules(**{name: source}), ROOMS)
    assert found.startswith(name.replace("__", "."))


def test_what_may_cross() -> None:
    modules = _modules(
        envs__push="from worldmodel.core.errors import UserError\nfrom envs import protocol\nfrom . import scenery",
        worldmodel__models__keypoint__model="from worldmodel.encoders.registry import load_encoder",
        planning__controller="from worldmodel.core.seeds import seed_of_step",
        planning__run="from worldmodel.models.keypoint.model import WorldModel\nimport envs.registry",
    )
    assert crossings(modules, ROOMS, {"planning.run"}) == []


def importing(modules: Mapping[str, Module], libraries: set[str], room: str) -> list[str]:
    """Modules outside of `room` that import one of `libraries`: `planning.run imports rich`."""
    found = {
        f"{module.name} imports {name.partition('.')[0]}"
        for module in modules.values()
        if room_of(module.name, [room]) is None
        for name in imports(module)
        if name.partition(".")[0] in libraries
    }
    return sorted(found)


def test_only_the_command_line_knows_hydra_and_rich() -> None:
    assert importing(MODULES, COMMAND_LINE_LIBRARIES, "worldmodel.cli") == []


def test_another_module_that_knows_them_is_found() -> None:
    modules = _modules(
        worldmodel__cli__console="from rich.console import Console",
        worldmodel__client="import hydra",
        planning__run="def f():\n    from rich.live import Live",
    )
    found = importing(modules, COMMAND_LINE_LIBRARIES, "worldmodel.cli")
    assert found == ["planning.run imports rich", "worldmodel.client imports hydra"]


def test_no_module_imports_itself_in_a_circle() -> None:
    assert find_cycle(MODULES) == []


def test_a_circle_is_found() -> None:
    circle = _modules(envs__a="from envs import b", envs__b="import envs.c", envs__c="from .a import something")
    assert set(find_cycle(circle)) == set(circle)
    postponed = _modules(envs__a="from envs import b", envs__b="def f():\n    import envs.a")
    assert find_cycle(postponed) == []


def test_dependencies_are_those_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [d for extra in EXTRAS for d in project["optional-dependencies"][extra]]
    declared = {Requirement(d).name for d in (*project["dependencies"], *extras)}
    imported = third_party_imports(MODULES.values(), sys.stdlib_module_names)
    assert imported == {IMPORTED_AS.get(d, d.replace("-", "_")) for d in declared - IMPORTED_BY_OTHERS}


def test_constraints_meet_the_declared_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    for text in (*project["dependencies"], *extras):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name]), f"{requirement}: {pinned[requirement.name]}"


def test_lock_files_hold_what_is_pinned_with_hashes() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))
    locked, hashes = {}, dict[str, int]()
    for file in ("requirements.lock", "requirements-torch.lock", "requirements-docs.lock"):
        for line in (ROOT / file).read_text().splitlines():
            found = re.match(r"([\w.-]+)==([^ ;\\]+)", line)
            if found:
                name = found[1].lower().replace("_", "-")
                locked[name], hashes[name] = found[2], 0
            elif line.strip().startswith("--hash=sha256:"):
                hashes[name] += 1
    assert min(hashes.values()) >= 1
    assert {name: version for name, version in locked.items() if pinned.get(name, version) != version} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for extra in (*EXTRAS, "dev", "docs") for text in project["optional-dependencies"][extra]]
    needed = {Requirement(text).name.lower() for text in (*project["dependencies"], *extras)} | {"setuptools", "six"}
    assert needed <= set(locked), "scripts/lock.sh makes them anew"


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "benchmarks"])
def test_no_file_is_too_long(folder: str) -> None:
    lengths = {p.relative_to(ROOT): len(p.read_text().splitlines()) for p in (ROOT / folder).rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "benchmarks"])
def test_no_function_is_too_long(folder: str) -> None:
    paths = (ROOT / folder).rglob("*.py")
    modules = [Module.parse(str(path.relative_to(ROOT)), path.read_text()) for path in paths]
    assert long_functions(modules, MOST_LINES_OF_A_FUNCTION) == []


def test_a_long_function_is_found() -> None:
    module = Module.parse(
        "planning.optimisers.cem",
        "class A:\n    def short(self):\n        pass\n\n    async def long(self):\n" + "        pass\n" * 2,
    )
    assert long_functions([module], 2) == ["planning.optimisers.cem:5 long has 3 lines"]


@pytest.mark.parametrize("module", [m for m in MODULES.values() if m.name != PRINTS], ids=lambda m: m.name)
def test_library_habits(module: Module) -> None:
    assert forbidden_calls(module) == []


@pytest.mark.parametrize(
    "source",
    [
        "print(1)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "import pickle\npickle.load(file)",
        "from pickle import loads",
        "class Reader(pickle.Unpickler):\n    def read(self):\n        pass",
        "model.cuda()",
        "torch.device('cuda:0')",
        "try:\n    pass\nexcept:\n    pass",
        "eval('1')",
        "np.random.seed(0)",
    ],
)
def test_a_bad_habit_is_found(source: str) -> None:
    assert forbidden_calls(Module.parse("planning.optimisers.cem", source))


def test_good_habits_pass() -> None:
    source = """
import pickle
try:
    console.print(torch.load(path, weights_only=True), np.load(path, allow_pickle=False), torch.cuda.is_available())
except pickle.UnpicklingError:
    pass


class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        raise pickle.UnpicklingError(name)
"""
    assert forbidden_calls(Module.parse("planning.optimisers.cem", source)) == []


def test_every_data_file_is_shipped() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    files = [
        p
        for package in (*PACKAGES, "configs")
        for p in (ROOT / package).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    ]
    left_out = [p for p in files if p.suffix != ".py" and not any(p.match(pattern) for pattern in patterns)]
    assert left_out == []
    assert {p.suffix for p in files} >= {".py", ".yaml", ".xml"}
    # What makes a type checker believe the annotations of an installed package.
    assert {p.parent.name for p in files if p.name == "py.typed"} == set(PACKAGES)


# --- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_yaml_names_no_class(path: Path) -> None:
    assert re.search(r"_(target|recursive|partial|convert)_\s*:", path.read_text()) is None


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_composes_with_every_choice(name: str) -> None:
    groups = {str(d).split(":")[0] for d in _defaults(name)}
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        choices = {g: sorted(p.stem for p in (ROOT / "configs" / g).glob("*.yaml")) for g in GROUPS if g in groups}
        # The n-th choices of all groups at once, since every composition takes a tenth of a second.
        for chosen in zip_longest(*choices.values()):
            options = [f"{group}={choice}" for group, choice in zip(choices, chosen, strict=True) if choice is not None]
            # Whatever needs another's value is resolved here, so that a dangling interpolation shows.
            values = OmegaConf.to_container(compose(name, options), resolve=True)
            assert isinstance(values, dict)
            assert all(values[option.split("=")[0]] for option in options)


def _defaults(name: str) -> list[str]:
    config = OmegaConf.load(ROOT / "configs" / f"{name}.yaml")
    return [str(next(iter(d))) for d in config.defaults if OmegaConf.is_dict(d)]


def test_every_group_belongs_to_a_command() -> None:
    taken = {entry for name in COMMANDS for entry in _defaults(name) if not entry.startswith("override")}
    # `optional objective_for@planner.objective: ...` takes the group `objective_for`.
    groups = {entry.removeprefix("optional ").partition("@")[0] for entry in taken}
    assert set(GROUPS) == {*groups, "planner_for"}, "which the command line reads itself"


def test_a_rank_that_is_alone_imports_nothing_for_several() -> None:
    heavy = {"torch.distributed.fsdp", "torch.distributed.tensor", "torch.distributed.checkpoint"}
    program = f"import sys, worldmodel.pretrain, worldmodel.train, planning.run; print({heavy} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_recording_has_the_length_that_its_environment_needs() -> None:
    chosen = [composed("collect", [f"env={env}"]).episodes for env in ("push", "arm_push", "arm_drawer")]
    assert chosen == sorted(set(chosen), reverse=True)
    assert composed("collect", ["env=arm_drawer", "episodes=7"]).episodes == 7


def test_a_pretraining_is_as_long_as_its_recipe_says_or_else_its_environment() -> None:
    def steps(*given: str) -> int:
        return int(composed("pretrain", list(given)).trainer.steps)

    assert steps("env=arm_drawer") < steps("env=push") < steps("recipe=vjepa")
    assert steps("env=arm_drawer", "recipe=vjepa") == steps("recipe=vjepa")
    assert steps("env=arm_drawer", "trainer.steps=7") == 7


def test_what_an_environment_or_its_family_changes_bears_its_name() -> None:
    families_of_envs = {p.stem: str(read_choice("env", p.stem).get("family")) for p in (CONFIGS / "env").glob("*.yaml")}
    accepted = {*families_of_envs, *families_of_envs.values()}
    for group in ("collect_for", "objective_for", "planner_for", "pretrain_for"):
        assert {p.stem for p in (CONFIGS / group).glob("*.yaml")} <= accepted, group
    families = {p.stem for p in (CONFIGS / "family").glob("*.yaml")}
    for changes in (CONFIGS / "family_for").glob("*.yaml"):
        family, _, name = changes.stem.partition("_")
        assert family in families and name in accepted, changes.stem
        env = next(e for e in families_of_envs if choice_for("family_for", e, f"{family}_") == changes.stem)
        before, after = (composed("train", [f"env={e}", f"family={family}"]) for e in ("push", env))
        changed = OmegaConf.to_container(OmegaConf.load(changes))
        assert isinstance(changed, dict)
        changed.pop("defaults", None)
        for section, values in changed.items():
            for key, value in values.items():
                assert after[section][key] == value != before[section][key], f"{changes.stem}: {section}.{key}"
