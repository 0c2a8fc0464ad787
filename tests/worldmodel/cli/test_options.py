"""Whatever is typed behind a command ends in one line: hostile options, and what each of them used to do."""

from __future__ import annotations

import copy
import dataclasses
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from envs.clips import ClipsConfig
from envs.collect import CollectConfig, ExploreConfig
from envs.push import PushConfig
from planning.compare import CompareConfig
from planning.evaluate import EvaluateConfig
from planning.hierarchy import HierarchyConfig
from planning.manifest import FreezeConfig, ManifestConfig
from planning.run import RunConfig
from tests.commands import assert_refused, type_in
from worldmodel.cli.command import _checked
from worldmodel.cli.composing import as_plain, composed, defaults_of, require_name, usual_overrides
from worldmodel.cli.usage import help_text
from worldmodel.core import registry
from worldmodel.core.errors import UserError
from worldmodel.core.options import from_config
from worldmodel.core.text import printable
from worldmodel.data.augmentation import AugmentationConfig
from worldmodel.data.clips import ClipConfig
from worldmodel.data.videos.clips import VideoConfig
from worldmodel.data.videos.labelled import LabelledConfig
from worldmodel.decode import DecodeOptions
from worldmodel.encoders.jepa.objective import JepaConfig
from worldmodel.encoders.jepa.task import PretrainConfig
from worldmodel.encoders.probes.grid import GridConfig
from worldmodel.encoders.vit import EncoderConfig
from worldmodel.landmarks import LandmarkOptions
from worldmodel.models.decoder.network import DecoderConfig
from worldmodel.models.decoder.training import DecodingConfig
from worldmodel.models.landmarks.landmarks import LandmarkConfig
from worldmodel.models.registry import FAMILIES
from worldmodel.pretrain import PretrainOptions
from worldmodel.probe import ProbeOptions
from worldmodel.train import TrainOptions
from worldmodel.training.trainer import TrainerConfig

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


BESIDE = {("compare", "a"), ("compare", "b"), ("env", "name")}  # read without a dataclass
# What reads the options of a command itself, and those of its sections where no family has them.
COMMANDS: dict[str, type[Any]] = {
    "clips": ClipsConfig,
    "collect": CollectConfig,
    "compare": CompareConfig,
    "decode": DecodeOptions,
    "evaluate": EvaluateConfig,
    "landmarks": LandmarkOptions,
    "manifest": FreezeConfig,
    "pretrain": PretrainOptions,
    "probe": ProbeOptions,
    "run": RunConfig,
    "train": TrainOptions,
}
SECTIONS: dict[str, type[Any]] = {
    "augmentation": AugmentationConfig,
    "clips": ClipConfig,
    "decoding": DecodingConfig,
    "encoder": EncoderConfig,
    "env": PushConfig,
    "explore": ExploreConfig,
    "grid": GridConfig,
    "jepa": JepaConfig,
    "labelled": LabelledConfig,
    "landmarks": LandmarkConfig,
    "manifest": ManifestConfig,
    "network": DecoderConfig,
    "pretrain": PretrainConfig,
    "sub_goals": HierarchyConfig,
    "trainer": TrainerConfig,
    "videos": VideoConfig,
}


def read_all(command: str, overrides: list[str]) -> None:
    """What a command does with its options before it begins. Raises UserError and nothing else."""
    config = _checked(as_plain(composed(command, overrides, with_hydra=True)))
    own = {k: v for k, v in config.items() if not isinstance(v, dict) and (command, k) not in BESIDE}
    from_config(COMMANDS[command], own, command)
    if command == "train":
        FAMILIES.get(config["family"]).read_options(config)
    if "planner" in config:
        planner = config["planner"]
        assert isinstance(planner["options"], dict)
    for section, cls in SECTIONS.items():  # `videos` is a section of one command, and a number in another one
        if (
            isinstance(config.get(section), dict)
            and (section != "env" or config["env"]["name"] == "push")
            and command != "train"
        ):
            values = {k: v for k, v in config[section].items() if (section, k) not in BESIDE}
            from_config(cls, values, section)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_hostile_options_are_refused_in_one_line_or_taken(command: str) -> None:
    given = [f"{group}=push" for group, choice in defaults_of(command).items() if choice == "???"]
    keys = [*option_keys(composed(command, given)), *KEYS]
    rng = np.random.default_rng(sum(map(ord, command)))
    for _ in range(40):
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
        ("worldmodel.pretrain", ["env=null"], "unknown env 'null': choose from arm_drawer, "),
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
            "env is missing: choose from arm_drawer, arm_pick_place, arm_push, dm_control, manipulation, push, "
            "push_two, push_wall, reacher, robot, for example env=",
        ),
        ("planning.run", ["planner=../env/push"], "unknown planner '../env/push': choose from adam, "),
        ("planning.run", ["planner=null"], "unknown planner 'null'"),
        ("planning.run", ["planner.options=5"], "planner.options is a section"),
        ("worldmodel.pretrain", ["env.name=../x"], "env.name '../x' cannot be used: expected a name of letters"),
        ("worldmodel.pretrain", ["env.name="], "env.name '' cannot be used"),
        ("worldmodel.pretrain", ["env=robot", "env.name=.hidden"], "env.name '.hidden' cannot be used"),
        ("worldmodel.train", ["env.name=a/b"], "env.name 'a/b' cannot be used"),
        ("envs.goal", ["hydra.run.dir=elsewhere"], "options of Hydra's cannot be set here"),
        ("worldmodel.train", ["~trainer"], "would remove an option"),
        ("planning.run", ["goal=\x1b]0;owned\x07.png"], "goal=.png"),
    ],
)
def test_what_used_to_end_otherwise(tmp_path: Path, module: str, options: list[str], message: str) -> None:
    assert_refused(type_in(tmp_path, module, *options), message)
    assert list(tmp_path.iterdir()) == []


def test_the_family_of_an_environment_chooses_the_planner_unless_the_user_does() -> None:
    def narrow(*overrides: str) -> object:
        return composed("evaluate", list(overrides)).planner.options.narrow_share

    assert narrow("env=arm_push") == narrow("env=arm_drawer", "planner.options.samples=8") == 0.5
    assert narrow() == narrow("env=push") == 0.5
    assert narrow("env=reacher") == narrow("env=arm_push", "planner=icem") == 0.0
    assert "planner" not in composed("train", ["env=arm_push"]), "a command without a planner"
    assert "planner=guided (or " in help_text("evaluate", ["env=arm_drawer"])
    assert usual_overrides("evaluate", ["env=reacher,push_wall"]) == [], "a sweep"
    assert usual_overrides("evaluate", ["env=arm_pick_place,arm_drawer"]) == ["planner=guided"]
    with pytest.raises(UserError, match="env=reacher,arm_push: these have different planners unless one is chosen"):
        usual_overrides("evaluate", ["env=reacher,arm_push"])


def test_another_body_is_recorded_and_trained_in_folders_of_its_own() -> None:
    def name(*overrides: str, command: str = "collect") -> object:
        return as_plain(composed(command, list(overrides)))["env"]["name"]

    jaco = ("env=arm_push", "env.body=jaco")
    assert {name(*jaco, command=command) for command in ("collect", "train", "evaluate")} == {"arm_push_jaco"}
    assert as_plain(composed("collect", list(jaco)))["out"] == "runs/arm_push_jaco/data.zarr"
    assert name("env=arm_push") == name("env=arm_push", "env.body=hand") == "arm_push"
    assert name(*jaco, "env.name=mine") == name(*jaco, "env.name=mine_jaco") == "mine_jaco"
    assert name("env=arm_push", "++env.body=jaco") == "arm_push_jaco" and name("env=push") == "push"


def test_names_that_folders_may_have() -> None:
    assert require_name("env.name", "push_2-b.c") == "push_2-b.c"
    for name in ("", ".", "..", "a/b", "a\\b", "-x", "é", "a b", "x" * 101, None, 3):
        with pytest.raises(UserError, match=r"env\.name .* cannot be used: expected a name"):
            require_name("env.name", name)


# --- plug-ins --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """A search that goes uphill.

    Attributes:
        samples: how many are
            drawn.
        sizes: of steps.
    """

    samples: int = 32
    sizes: tuple[float, ...] = (0.5, 0.1)


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    gravity: float
    depth: int = 3


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {kind: {} for kind in registry.KINDS})
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    registry.register("optimiser", "uphill", types.SimpleNamespace(config=SearchConfig))
    registry.register("env", "mine", types.SimpleNamespace(config=WorldConfig))
    registry.register("env", "plain", object())


@pytest.mark.usefixtures("plugins")
def test_options_of_plug_ins_come_from_their_dataclasses() -> None:
    config = as_plain(composed("run", ["planner=uphill", "planner.options.samples=8", "env=mine", "env.gravity=9.8"]))
    assert config["env"] == {"family": "mine", "name": "mine", "gravity": 9.8, "depth": 3}
    planner = config["planner"]
    assert (planner["name"], planner["options"]) == ("uphill", {"samples": 8, "sizes": [0.5, 0.1]})
    assert set(planner) == {"name", "horizon", "execute", "options", "objective", "proposals"}
    assert from_config(SearchConfig, planner["options"], "planner") == SearchConfig(8)
    assert as_plain(composed("goal", ["env=plain"]))["env"] == {"family": "plain", "name": "plain"}


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["planner=uphil"], "two_spreads, uphill (did you mean uphill?)"),
        (["env=mine"], "env.gravity is missing: it has no default"),
        (["env=mine", "env.gravitee=1"], "(did you mean env.gravity?)"),
        (["planner=uphill", "planner.options.sample=1"], "(did you mean planner.options.samples?)"),
    ],
)
def test_mistakes_about_plug_ins(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        as_plain(composed("run", overrides))
    assert message in str(caught.value)


@pytest.mark.usefixtures("plugins")
def test_help_lists_plug_ins_and_explains_their_options() -> None:
    told = help_text("run", ["planner=uphill"])
    assert (
        "planner=uphill (or planner=adam, planner=auto, " in told and "its options written planner.key=value:" in told
    )
    assert "# planner=uphill: A search that goes uphill\n" in told
    assert "  samples: 32  # how many are drawn.\n" in told
    others = (
        "env=dm_control, env=manipulation, env=mine, env=plain, env=push_two, env=push_wall, env=reacher, env=robot"
    )
    assert f"env=push (or env=arm_drawer, env=arm_pick_place, env=arm_push, {others})" in told
    assert "env=mine" in help_text("collect")
