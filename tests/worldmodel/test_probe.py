"""`python -m worldmodel.probe`: what can be read from the features of encoders that are ready."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import assert_refused, type_in
from worldmodel.core.spec import ActionSpec, EnvironmentSpec, one_camera
from worldmodel.data import TrajectoryStore
from worldmodel.encoders.probe import Probed
from worldmodel.probe import quantity_names

SHAPE = ("encoder.width=32", "encoder.depth=1", "encoder.heads=2", "device=cpu", "env=robot", "env.name=toy")


def probed(folder: Path, store: TrajectoryStore, *options: str) -> tuple[str, dict]:
    given = (f"data={store.path}", "held_out_fraction=0.3", "frames=200", "out=probe.json", *SHAPE, *options)
    ended = type_in(folder, "worldmodel.probe", *given)
    assert (ended.code, ended.err) == (0, "")
    return ended.out, json.loads((folder / "probe.json").read_text())


def test_where_things_are_can_be_read_off_pixels(tmp_path: Path, toy_store: TrajectoryStore) -> None:
    told, figures = probed(tmp_path, toy_store, "encoder_from=pixels")
    assert (figures["encoder"], figures["store"], figures["frames"]) == ("pixels", toy_store.identity, 91)
    (found,) = figures["cameras"].values()
    assert list(found["r2"]) == ["proprio 0", "proprio 1", "state 0", "state 1", "state 2"]
    assert min(found["r2"]["proprio 0"], found["r2"]["state 1"]) > 0.5
    assert found["r2"]["state 2"] is None, "the third number of the toy's state is always 1"
    assert found["r2_mean"] == pytest.approx(np.mean([v for v in found["r2"].values() if v is not None]))
    assert found["spread"] > 0 and found["effective_rank"] >= 1
    for words in ("pixels on ", "91 frames of held-out episodes", "effective rank", "R² of proprio 0", "constant"):
        assert words in told


def test_a_random_encoder_is_the_same_every_time(tmp_path: Path, toy_store: TrajectoryStore) -> None:
    first = probed(tmp_path, toy_store, "encoder_from=random")[1]
    assert probed(tmp_path, toy_store, "encoder_from=random")[1] == first
    assert probed(tmp_path, toy_store, "encoder_from=random", "seed=1")[1] != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("encoder_from=nowhere",), "no encoder at nowhere: make one with `python -m worldmodel.pretrain`"),
        (("encoder_from=pixels", "held_out_fraction=0.0"), "the probe is tested on episodes held out"),
        (("encoder_from=pixels", "frames=1"), "frames 1: expected at least 4"),
        (("encoder_from=pixels", "seed=-1"), "seed -1: expected a whole number of at least 0"),
        (("encoder_from=pixels", "data=nowhere.zarr"), "no recording at nowhere.zarr"),
    ],
)
def test_what_cannot_be_probed(tmp_path: Path, toy_store: TrajectoryStore, options: tuple, message: str) -> None:
    given = (f"data={toy_store.path}", *SHAPE, *options)
    assert_refused(type_in(tmp_path, "worldmodel.probe", *given), message)
    assert list(tmp_path.iterdir()) == []


def test_quantities_have_names() -> None:
    spec = EnvironmentSpec("arm", one_camera(32), 0.1, ActionSpec((-1.0,), (1.0,), ("m",)), 2, 1, "none")
    assert quantity_names(spec) == ["proprio 0", "proprio 1", "state 0"]
    assert Probed(1.0, 2.0, (0.5, float("nan"))).mean_r2 == 0.5
    assert np.isnan(Probed(1.0, 2.0, ()).mean_r2)
