"""`wm pretrain --dry-run` prints what a step costs, and writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import assert_refused, type_in
from tests.worldmodel.commands import TOY
from worldmodel.data import TrajectoryStore
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.masks import MultiBlock
from worldmodel.pretrain import visible_shares


def test_it_prints_every_component_and_writes_nothing(toy_store: TrajectoryStore, tmp_path: Path) -> None:
    given = (*TOY["worldmodel.pretrain"], f"data={toy_store.path}", "encoder.checkpointing=true", "--dry-run")
    ended = type_in(tmp_path, "worldmodel.pretrain", *given)
    assert ended.code == 0, ended
    for part in ("context encoder", "target encoder", "mask predictor", "total", "operations (G)"):
        assert part in ended.out
    assert list(tmp_path.iterdir()) == []


def test_no_recording_is_needed(tmp_path: Path) -> None:
    given = ("env=push", "env.image_size=48", "encoder=vit_tiny", "clips.frames=4", "trainer.batch_size=2", "--dry-run")
    ended = type_in(tmp_path, "worldmodel.pretrain", *given)
    assert ended.code == 0 and "one step with 2 clips of 4 x 48 x 48" in ended.out, ended
    assert list(tmp_path.iterdir()) == []
    assert_refused(type_in(tmp_path, "worldmodel.pretrain", "data=lost.zarr", *given), "no recording at lost.zarr")
    assert_refused(type_in(tmp_path, "worldmodel.pretrain", *given, "env.image_size=50"), "50")


def test_other_commands_have_no_such_option(tmp_path: Path) -> None:
    assert_refused(type_in(tmp_path, "worldmodel.train", "--dry-run"), "dry_run")


def test_shares_are_those_of_the_masks() -> None:
    """A rectangle of 4 x 4 patches in 8 x 8 leaves three quarters visible, in every frame."""
    (share,) = visible_shares([MultiBlock(1, 0.25, (1.0, 1.0))], frames=3, grid=Grid(8, 8), batch=4)
    assert share == pytest.approx(0.75)
