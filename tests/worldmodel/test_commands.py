"""`python -m worldmodel.pretrain` and `python -m worldmodel.train`: what they leave, and how they refuse."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.worldmodel.commands import TOY, TOY_ENV, TOY_OPTIONS, run
from tests.worldmodel.toy import SPEC, make_episode
from worldmodel.core.goal import ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.core.spec import CAMERA
from worldmodel.data import EpisodeWriter, TrajectoryStore
from worldmodel.encoders.jepa.inference import load_jepa
from worldmodel.encoders.registry import load_encoder
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.registry import load_model

# The commands run in 32-pixel toy recordings, as those of a robot called `toy`.
PRETRAIN, TRAIN = "worldmodel.pretrain", "worldmodel.train"
CPU = "device=cpu"


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(toy_store: TrajectoryStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both trainings, one after the other, under their default names."""
    folder = tmp_path_factory.mktemp("trained")
    data = f"data={toy_store.path}"
    pretrain = run(PRETRAIN, (CPU, data, *TOY[PRETRAIN]), folder)
    assert pretrain.exit_code == 0, pretrain
    assert f"next: python -m worldmodel.train env=robot env.name=toy {data}\n" in pretrain.stdout
    assert "encoder: runs/toy/encoder" in pretrain.stdout
    train = run(TRAIN, (CPU, data, *TOY[TRAIN]), folder)
    assert train.exit_code == 0, train
    assert 'next: RobotController("runs/toy/model", goal=...), in docs/robot.md' in train.stdout
    assert "world model: runs/toy/model" in train.stdout
    assert "confidence: errors within the 90 % bound, by step: " in train.stdout
    assert "novelty: 99.9% of the held-out images are below " in train.stdout
    assert json.loads((folder / "runs" / "toy" / "model" / "novelty.json").read_text())["limit"] > 0
    return folder / "runs" / "toy"


def test_pretraining_leaves_the_target_encoder_and_a_log(trained: Path) -> None:
    encoder = load_encoder(trained / "encoder", SPEC.cameras)
    assert (encoder.config.width, encoder.config.depth) == (32, 1)
    state = torch.load(trained / "encoder" / "training.pt", weights_only=True)["module"]
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, state[f"target.{name}"])
    kept = load_jepa(trained / "encoder" / "jepa").state_dict()
    assert {name.partition(".")[0] for name in kept} == {"encoder", "predictor"}
    assert all(torch.equal(value, state[name]) for name, value in kept.items())
    log = log_of(trained / "encoder")
    assert [entry["step"] for entry in log if "loss" in entry] == [4, 9, 14, 19, 24, 29]
    health = [entry for entry in log if "effective_rank" in entry]
    assert [entry["step"] for entry in health] == [14, 29]
    assert {"spread", "probe_r2", "probe_r2_00"} <= set(health[0])
    assert all(entry["items_per_s"] > 0 for entry in log if "loss" in entry)


def test_training_leaves_a_world_model_around_that_encoder(trained: Path, toy_store: TrajectoryStore) -> None:
    model = load_model(str(trained / "model"), torch.device("cpu"))
    assert isinstance(model, KeypointModel)
    assert model.spec == SPEC
    encoder = load_encoder(trained / "encoder", SPEC.cameras)
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(model.encoder.state_dict()[name], value, atol=1e-3, rtol=1e-3)  # float16 on disk
    config = json.loads((trained / "model" / "config.json").read_text())
    assert config["family"] == "keypoint"
    of_encoder = json.loads((trained / "encoder" / "config.json").read_text())
    assert config["provenance"]["encoder_hash"] == of_encoder["encoder_hash"]
    assert config["provenance"]["store"] == toy_store.identity
    names = set(load_file(trained / "model" / "model.safetensors"))
    assert not [name for name in names if "target" in name]
    actions = toy_store.read("action", 0, toy_store.num_rows)
    assert model.normaliser.action_std[0].item() == pytest.approx(actions[:, 0].std(), rel=0.2)
    report = [entry for entry in log_of(trained / "model") if "action_ranking" in entry]
    assert [entry["step"] for entry in report] == [14, 29]
    assert {"held_out_error", "error_over_copy_01", "error_over_copy_03"} <= set(report[0])
    assert 0 <= report[0]["action_ranking"] <= 1


@pytest.mark.parametrize(("baseline", "width"), [("random", 32), ("pixels", 48)])
def test_the_baselines_of_pretraining_train_by_the_same_command(
    baseline: str, width: int, toy_store: TrajectoryStore, tmp_path: Path
) -> None:
    few = ("trainer.steps=2", "state_trainer.steps=2")
    given = (CPU, f"data={toy_store.path}", f"encoder_from={baseline}", *TOY[TRAIN], *few)
    result = run(TRAIN, given, tmp_path)
    assert result.exit_code == 0, result
    model = load_model(str(tmp_path / "runs" / "toy" / "model"), torch.device("cpu"))
    assert model.encoder.config.width == width


@pytest.mark.parametrize("recipe", ["vjepa", "vjepa2", "vjepa21"])
def test_the_published_recipes_train(recipe: str, toy_store: TrajectoryStore, tmp_path: Path) -> None:
    """At toy size: what a recipe sets otherwise goes through the whole command."""
    lengths = () if recipe == "vjepa" else ("pretrain.lengths=[2,4]",)
    small = ("trainer.steps=6", "trainer.accumulate=2", "trainer.warmup=0.2", "encoder.depth=4", "clips.strides=[1]")
    given = (CPU, f"recipe={recipe}", f"data={toy_store.path}", *TOY[PRETRAIN], *lengths, *small)
    result = run(PRETRAIN, given, tmp_path)
    assert result.exit_code == 0, result
    folder = tmp_path / "runs" / "toy" / "encoder"
    (last,) = (entry for entry in log_of(folder) if entry["step"] == 5 and "loss" in entry)
    assert math.isfinite(last["loss"]) and ("context" in last) == (recipe == "vjepa21")
    model = load_jepa(folder / "jepa")
    clips = torch.zeros((1, 4, 32, 32, 3), dtype=torch.uint8)
    assert model.predict(clips, torch.arange(8)).shape == (1, 8, 32 * model.config.levels)


def write_dressed(path: Path, num_episodes: int = 24, first_seed: int = 0) -> Path:
    """The episodes of the toy recording in other colours."""
    with EpisodeWriter(path, SPEC, {"seed": 0}) as writer:
        for seed in range(first_seed, first_seed + num_episodes):
            episode = make_episode(seed)
            writer.append(dataclasses.replace(episode, images={"camera": 255 - episode.images["camera"]}))
    return path


def test_pretraining_toward_a_canonical_recording(toy_store: TrajectoryStore, tmp_path: Path) -> None:
    canonical = (f"canonical_data={toy_store.path}", "canonical_cache=canonical.npy", "jepa.visible_weight=1")
    dressed = write_dressed(tmp_path / "dressed.zarr", num_episodes=10)
    result = run(PRETRAIN, (CPU, f"data={dressed}", *TOY[PRETRAIN], *canonical), tmp_path)
    assert result.exit_code == 0, result
    folder = tmp_path / "runs" / "toy" / "encoder"
    assert all(entry["visible"] > 0 for entry in log_of(folder) if "loss" in entry)
    assert json.loads((folder / "run.json").read_text())["canonical"] == toy_store.identity
    state = torch.load(folder / "training.pt", weights_only=True)["module"]
    for name, value in load_encoder(folder, SPEC.cameras).state_dict().items():
        assert torch.equal(value, state[f"encoder.{name}"]), "the target encoder never saw what it has to look through"


@pytest.mark.parametrize(
    ("first_seed", "num_episodes", "overrides", "expected"),
    [
        (5, 10, ("canonical_cache=c.npy",), "differs in proprio from the data: expected the same episodes"),
        (0, 30, ("canonical_cache=c.npy",), "has 312 frames of camera (32 x 32), and the data 390 of camera (32 x 32)"),
        (0, 10, (), "canonical_data needs canonical_cache"),
    ],
)
def test_a_canonical_recording_is_one_of_the_same_episodes(
    first_seed: int,
    num_episodes: int,
    overrides: tuple[str, ...],
    expected: str,
    toy_store: TrajectoryStore,
    tmp_path: Path,
) -> None:
    dressed = write_dressed(tmp_path / "dressed.zarr", num_episodes, first_seed)
    given = (f"data={dressed}", f"canonical_data={toy_store.path}")
    result = run(PRETRAIN, (*TOY_ENV, *given, *overrides), tmp_path)
    assert result.exit_code == 2, result
    assert expected in result.stderr
    assert not (tmp_path / "runs").exists()


def test_another_command_does_not_take_over_a_run(trained: Path, toy_store: TrajectoryStore) -> None:
    changed = (CPU, f"data={toy_store.path}", *TOY[TRAIN], "trainer.seed=5")
    result = run(TRAIN, changed, trained.parents[1])
    assert result.exit_code == 2
    assert "trainer.seed=0, this command asks for 5" in result.stderr


@pytest.mark.parametrize("module", [PRETRAIN, TRAIN])
def test_another_recording_in_the_same_place_is_not_taken_for_the_first(
    trained: Path, tmp_path: Path, module: str
) -> None:
    """As many episodes, as long, with the same seeds, as live recordings have them: the content tells them apart."""
    shutil.copytree(trained, tmp_path / "runs" / "toy")
    with EpisodeWriter(tmp_path / "data.zarr", SPEC, {"seed": 0}, episodes_per_commit=8) as writer:
        for seed in range(24):
            writer.append(dataclasses.replace(make_episode(100 + seed), seed=seed))
    finished = tmp_path / "runs" / "toy" / ("encoder" if module == PRETRAIN else "model")
    told = json.loads((finished / "run.json").read_text())
    (finished / "run.json").write_text(json.dumps({**told, "data": str(tmp_path / "data.zarr")}))
    given = (CPU, f"data={tmp_path / 'data.zarr'}", *TOY[module])
    result = run(module, given, tmp_path)
    assert result.exit_code == 2 and "holds a run on another recording" in result.stderr, result

    shutil.rmtree(finished)
    result = run(module, given, tmp_path)
    assert result.exit_code == 0, result
    name = "model.safetensors"
    mine, first = (load_file(folder / name) for folder in (finished, trained / finished.name))
    assert any(not torch.equal(mine[key], first[key]) for key in first)
    frames = np.load(tmp_path / "runs" / "toy" / "frames.npy")
    np.testing.assert_array_equal(frames[:13], make_episode(100).images[CAMERA])


@pytest.mark.parametrize(
    ("module", "overrides", "expected"),
    [
        (PRETRAIN, ("data=nowhere.zarr",), "no recording at nowhere.zarr: make one with"),
        (
            PRETRAIN,
            ("env=pussh",),
            "unknown env 'pussh': choose from arm_drawer, arm_pick_place, arm_push, dm_control, manipulation, push, "
            "push_two, push_wall, reacher, robot (did you mean push?)",
        ),
        (PRETRAIN, ("trainer.stepz=5",), "(did you mean trainer.steps?)"),
        (PRETRAIN, ("device=tpu",), "device 'tpu' is not on this machine: choose from auto, cpu"),
        (
            PRETRAIN,
            ("encoder.positions=learned",),
            "positions 'learned' is unknown: choose from rotary, rotary_vjepa2, ",
        ),
        (
            PRETRAIN,
            ("encoder.patch_size=5",),
            "32 x 32, are not cut whole by patch_size 5: patch_size may be 4, 8, 16, 32, or the pictures",
        ),
        (PRETRAIN, ("encoder.heads=0",), "encoder: heads must be at least 1, got 0"),
        (PRETRAIN, ("jepa.predictor_width=96", "jepa.predictor_heads=5"), "jepa: predictor_width 96 is not a multiple"),
        (PRETRAIN, ("trainer.log_every=0",), "trainer: log_every and evaluate_every must be at least 1"),
        (PRETRAIN, ("trainer.precision=fp8",), "unknown precision 'fp8': choose from auto, bf16, fp32"),
        (PRETRAIN, ("clips.frames=5",), "clips.frames 5 is not a multiple of 2"),
        (PRETRAIN, ("clips.frames=40",), "no episode is long enough for clips of 40 frames"),
        (PRETRAIN, ("clips.strides=3",), "clips option strides is 3: expected a list of whole numbers"),
        (PRETRAIN, ("held_out_fraction=1.5",), "held_out_fraction 1.5: expected 0 up to"),
        (PRETRAIN, ("out=/proc/nowhere", "cache=frames.npy"), "out '/proc/nowhere' cannot be written to"),
        (PRETRAIN, ("cache=.",), "cache '.' is a folder: expected a file"),
        (
            TRAIN,
            ("out=/proc/nowhere", "cache=frames.npy", "encoder_from=random", "prediction.rollout_steps=3"),
            "out '/proc/nowhere' cannot be written to",
        ),
        (PRETRAIN, ("out=3",), "pretrain option out is 3: expected text"),
        (TRAIN, ("held_out_fraction=some",), "train option held_out_fraction is 'some': expected a number"),
        (TRAIN, ("trainer.steps=1.5", "encoder_from=random"), "trainer option steps is 1.5: expected a whole number"),
        (TRAIN, ("data=nowhere.zarr",), "no recording at nowhere.zarr: make one with"),
        (TRAIN, (), "no encoder at runs/toy/encoder: make one with `python -m worldmodel.pretrain`"),
        (TRAIN, ("encoder_from=random", "prediction.rollout_steps=0"), "rollout_steps must be at least 1, got 0"),
        (TRAIN, ("encoder_from=random", "prediction.rollout_steps=50"), "no episode is long enough for clips of 52"),
        (TRAIN, ("encoder_from=random", "held_out_sequences=1"), "held_out_sequences 1 must be at least 2"),
        (TRAIN, ("encoder_from=random", "family=rssm"), "unknown family 'rssm': choose from"),
        (TRAIN, ("encoder_from=random", "state_trainer.batch_size=30"), "must be a multiple of state_training"),
        (PRETRAIN, ("pretrain.masks=[]",), "pretrain: masks is empty: expected at least one"),
        (
            PRETRAIN,
            ("pretrain.masks=[{kind:tubes}]",),
            "pretrain: unknown kind of mask 'tubes': choose from future_biased",
        ),
        (PRETRAIN, ("pretrain.masks=[{kind:temporal}]", "clips.frames=2"), "the clip has 1 tubelet layers"),
        (PRETRAIN, ("trainer.accumulate=3",), "trainer: accumulate 3: expected a divisor of batch_size 64"),
        (PRETRAIN, ("jepa.levels=9",), "jepa.levels 9: expected at most the encoder's number of blocks, 4"),
        (PRETRAIN, ("recipe=vjepa3",), "unknown recipe 'vjepa3': choose from cpu, vjepa, vjepa2, vjepa21"),
        (PRETRAIN, ("pretrain.lengths=[8]", "pretrain.lengths_from=[0]"), "pretrain.lengths has 8, of clips of 4"),
        (PRETRAIN, ("encoder.mlp_ratio=inf",), "encoder: mlp_ratio inf must be at least"),
        (
            TRAIN,
            ("encoder_from=random", "distance.appearance_weight=nan"),
            "distance option appearance_weight is nan: expected a number",
        ),
        (TRAIN, ("encoder_from=random", "predictor.depth=0"), "predictor: every size must be at least 1"),
        (
            TRAIN,
            ("encoder_from=random", "state_trainer.batch_size=1000000000"),
            "state_trainer.batch_size=1000000000 takes about 3,815 GiB of memory, and this machine has",
        ),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    tmp_path: Path, toy_store: TrajectoryStore, module: str, overrides: tuple[str, ...], expected: str
) -> None:
    given = () if any(o.startswith("data=") for o in overrides) else (f"data={toy_store.path}",)
    env = () if any(o.startswith("env=") for o in overrides) else TOY_ENV
    result = run(module, (*env, *given, *overrides), tmp_path)
    assert result.exit_code == 2, result
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "runs").exists(), "the corrected command must not be told of a run that never began"


@pytest.mark.parametrize("module", [PRETRAIN, TRAIN])
def test_a_recording_of_another_environment_is_refused_before_training(
    module: str, toy_store: TrajectoryStore, tmp_path: Path
) -> None:
    encoder = ("encoder_from=random",) if module == TRAIN else ()
    result = run(module, ("env=push", *TOY_OPTIONS[module], f"data={toy_store.path}", *encoder), tmp_path)
    assert result.exit_code == 2, result
    assert "data.zarr is a recording of env 'toy', not of env 'push'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def _cut_rows(store: Path) -> None:
    path = store / "data" / "action" / "zarr.json"
    description = json.loads(path.read_text())
    description["shape"][0] -= 20
    path.write_text(json.dumps(description))


def _exchange_chunks(store: Path) -> None:
    one, other = (store / f"data/images/camera/c.{number}.0.0.0" for number in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


FIRST_FRAMES = "data/images/camera/c.0.0.0.0"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a chunk is gone": (lambda s: (s / FIRST_FRAMES).unlink(), "chunk 0 of data/images/camera is missing"),
    "a chunk is cut": (
        lambda s: (s / FIRST_FRAMES).write_bytes((s / FIRST_FRAMES).read_bytes()[:-20]),
        "chunk 0 of data/images/camera cannot be decoded",
    ),
    "chunks were exchanged": (_exchange_chunks, "images/camera of episode 0 is not what was recorded"),
    "rows are gone": (_cut_rows, "is truncated: data/action has 292 rows, meta/episode_ends promises 312"),
    "an array is gone": (lambda s: shutil.rmtree(s / "data" / "proprio"), "data/proprio: zarr.json is missing"),
    "it is no store": (lambda s: (s / "zarr.json").unlink(), "is not a trajectory store"),
}


@pytest.mark.parametrize("module", [PRETRAIN, TRAIN])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_truncated_store_is_refused_with_its_damage(
    tmp_path: Path, toy_store: TrajectoryStore, module: str, damage: str
) -> None:
    inflict, expected = DAMAGES[damage]
    shutil.copytree(toy_store.path, tmp_path / "data.zarr")
    inflict(tmp_path / "data.zarr")
    encoder = ("encoder_from=random",) if module == TRAIN else ()
    result = run(module, (CPU, f"data={tmp_path / 'data.zarr'}", *TOY[module], *encoder), tmp_path)
    assert result.exit_code == 2, result
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert expected in result.stderr


def test_a_robot_that_feels_nothing_and_has_no_simulator(tmp_path: Path) -> None:
    """Pictures and actions alone are enough; health is watched all the same."""
    spec = dataclasses.replace(SPEC, proprio_size=0, state_size=0)
    with EpisodeWriter(tmp_path / "data.zarr", spec) as writer:
        for seed in range(24):
            episode = make_episode(seed)
            none = {"proprio": episode.proprio[:, :0], "state": episode.state[:, :0]}
            writer.append(dataclasses.replace(episode, **none))
    data = ("env.name=arm", f"data={tmp_path / 'data.zarr'}")
    pretrain = run(PRETRAIN, (CPU, *TOY[PRETRAIN], *data), tmp_path)
    assert pretrain.exit_code == 0, pretrain
    (health, _) = (entry for entry in log_of(tmp_path / "runs/arm/encoder") if "effective_rank" in entry)
    assert health["spread"] > 0.01 and "probe_r2" not in health
    train = run(TRAIN, (CPU, *TOY[TRAIN], *data), tmp_path)
    assert train.exit_code == 0, train
    assert pretrain.stderr + train.stderr == ""
    assert 'next: RobotController("runs/arm/model", goal=...), in docs/robot.md' in train.stdout
    assert all(math.isfinite(entry.get("loss", 0)) for entry in log_of(tmp_path / "runs/arm/model"))
    model = load_model(str(tmp_path / "runs/arm/model"), torch.device("cpu"))
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    latent = model.observe(None, Observation({CAMERA: pixels}, np.zeros((1, 0), np.float32)), None)
    ahead = model.imagine(latent, torch.zeros(1, 5, 4, 2))
    assert model.distance(ahead, model.goal(ImageGoal({CAMERA: pixels[0]}))).isfinite().all()


def test_a_collapse_ends_with_its_advice_and_exit_code_1(tmp_path: Path, toy_store: TrajectoryStore) -> None:
    overrides = (CPU, f"data={toy_store.path}", *TOY[PRETRAIN], "pretrain.smallest_spread=1000")
    result = run(PRETRAIN, overrides, tmp_path)
    assert result.exit_code == 1
    assert "the features have collapsed" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert not (tmp_path / "runs" / "toy" / "encoder" / "config.json").exists()


@pytest.mark.parametrize("section", ["robot_trainer", "state_trainer", "appearance_trainer", "trainer"])
def test_a_divergence_names_the_option_of_its_own_training(
    tmp_path: Path, toy_store: TrajectoryStore, section: str
) -> None:
    options = (f"data={toy_store.path}", "encoder_from=random", f"{section}.learning_rate=1e38", CPU)
    if section == "robot_trainer":
        options = (*options, "state.robot_width=8")
    ended = run(TRAIN, (*TOY[TRAIN], *options), tmp_path)
    assert ended.exit_code == 1, ended
    assert f"a lower {section}.learning_rate (1e+38 now) usually helps" in ended.stdout
