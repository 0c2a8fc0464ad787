"""`python -m worldmodel.physics`: from pairs to figures and pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import assert_refused, type_in
from tests.worldmodel.toy import SPEC, make_encoder, make_episode, make_model
from worldmodel.data import EpisodeWriter, TrajectoryStore
from worldmodel.encoders.jepa.inference import save_jepa
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.registry import save_encoder
from worldmodel.surprise.labels import PairLabel, write_labels

WINDOWS = ("windows.frames=4", "windows.stride=2", "windows.contexts=[2]")


@pytest.fixture
def pairs(tmp_path: Path) -> TrajectoryStore:
    """Four pairs of episodes of 13 frames in two scenes."""
    path = tmp_path / "pairs" / "pairs.zarr"
    with EpisodeWriter(path, SPEC, {}) as writer:
        for seed in range(8):
            writer.append(make_episode(seed))
    store = TrajectoryStore.open(path)
    labels = [
        PairLabel("wall", "visible", ("passes", "turns")[number % 2], number // 2, 2 * number, 2 * number + 1, 5)
        for number in range(4)
    ]
    write_labels(labels, store, path.with_name("pairs.json"))
    return store


def measured(folder: Path, *options: str) -> tuple[str, dict]:
    ended = type_in(folder, "worldmodel.physics", "data=pairs", "device=cpu", *options)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out, json.loads((folder / "pairs" / "surprise" / "result.json").read_text())


def test_a_world_model(tmp_path: Path, pairs: TrajectoryStore) -> None:
    make_model().save(tmp_path / "model", {})
    told, result = measured(tmp_path, "checkpoint=model", "horizon=3")
    assert (result["kind"], result["store"], result["options"]) == (
        "keypoint", pairs.identity, {"horizon": 3, "seed": 0},
    )  # fmt: skip
    assert [(row["property"], row["variant"], row["pairs"], row["scenes"]) for row in result["rows"]] == [
        ("wall", "visible", 4, 2), ("all", "", 4, 2),
    ]  # fmt: skip
    assert set(result["pairs"][0]["surprise"]) == {"model", "copy last", "pixels", "untrained"}
    right = np.mean(
        [row["surprise"]["model"]["mean"][1] > row["surprise"]["model"]["mean"][0] for row in result["pairs"]]
    )
    assert result["rows"][0]["accuracy"]["mean"]["rate"] == right
    assert "model (keypoint) on pairs/pairs.zarr" in told
    assert re.search(rf"wall +visible +4 +{100 * right:.0f} \(", told)
    examples = tmp_path / "pairs" / "surprise" / "examples"
    assert sorted(file.name for file in examples.iterdir()) == ["wall_visible_0000.mp4", "wall_visible_0000.png"]
    with Image.open(examples / "wall_visible_0000.png") as image:
        assert image.size == (12 * 32 * 4, 2 * 32 * 4)
        sheet = np.asarray(image)
    red = (sheet == (220, 40, 40)).all(-1)
    assert red[128:].any() and not red[:128].any(), "only the impossible clip is marked"
    marked = red[128:].any(0).nonzero()[0].min() // 128
    assert np.linspace(0, 12, 12).round()[[marked - 1, marked]].tolist() == [4, 5], "from the break on"


def test_a_mask_predictor(tmp_path: Path, pairs: TrajectoryStore) -> None:
    encoder = make_encoder()
    jepa = Jepa(
        encoder.config, JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2, targets="layer_norm")
    )
    save_jepa(jepa, tmp_path / "encoder" / "jepa", {})
    save_encoder(encoder, tmp_path / "encoder", SPEC, {})
    given = ("checkpoint=encoder", *WINDOWS, "by=violation", "examples=0")
    told, result = measured(tmp_path, *given)
    assert result["kind"] == "jepa"
    assert result["options"] == {"frames": 4, "stride": 2, "every": 1, "contexts": [2], "seed": 0}
    assert [row["variant"] for row in result["rows"]] == ["passes", "turns", ""]
    assert "encoder (jepa) on" in told and "examples" not in told
    assert [file.name for file in (tmp_path / "pairs" / "surprise").iterdir()] == ["result.json"]
    assert measured(tmp_path, *given)[1] == result
    assert measured(tmp_path, *given, "scenes=1")[1]["pairs"] == result["pairs"][:2]
    other = measured(tmp_path, *given, "seed=1")[1]["pairs"][0]["surprise"]
    assert other["model"] == result["pairs"][0]["surprise"]["model"]
    assert other["untrained"] != result["pairs"][0]["surprise"]["untrained"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("horizon=0",), "horizon 0: expected a whole number of at least 1"),
        (("scenes=0",), "scenes 0: expected a whole number of at least 1, or null"),
        (("examples=-1",), "examples -1 and seed 0"),
        (("by=colour",), "unknown by 'colour': choose from variant, violation"),
        (("properties=[wal]",), "unknown property 'wal': choose from wall (did you mean wall?)"),
        (("windows.stride=0",), "stride 0: expected a whole number of at least 1"),
        (("checkpoint=nowhere",), "unknown checkpoint 'nowhere'"),
        (("checkpoint=push",), "the world model was made for env push, not for env toy"),
        (("data=nowhere",), "no recording at nowhere/pairs.zarr"),
    ],
)
def test_what_cannot_be_measured(
    tmp_path: Path, pairs: TrajectoryStore, options: tuple[str, ...], message: str
) -> None:
    assert_refused(type_in(tmp_path, "worldmodel.physics", "data=pairs", "device=cpu", *options), message)
    assert [file.name for file in tmp_path.iterdir()] == ["pairs"]
    assert not (tmp_path / "pairs" / "surprise").exists()


def test_the_shipped_model_knows_what_its_actions_do(tmp_path: Path) -> None:
    """Controls that do not know the actions cannot tell: each frame is in a possible clip and in an impossible one."""
    made = type_in(tmp_path, "envs.physics_clips", "world=push", "scenes=4", "seed=901", "out=pairs")
    assert made.code == 0
    _, result = measured(tmp_path, "checkpoint=push", "examples=0")
    accuracy = result["rows"][-1]["accuracy"]["mean"]
    assert accuracy["rate"] >= 0.9
    assert accuracy["controls"]["pixels"] == accuracy["controls"]["copy last"] == 0.5
