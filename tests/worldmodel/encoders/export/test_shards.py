"""Shards of features, which are the same however often their writing is interrupted."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from worldmodel.core.errors import UserError
from worldmodel.encoders.export.shards import FeatureFolder, Place, ShardWriter, shard_name

DESCRIPTION = {"encoder_hash": "abc", "row_shape": [2]}
_FOLDERS = itertools.count()


def batch(number: int, size: int) -> dict[str, torch.Tensor]:
    features = torch.full((size, 2), float(number))
    return {"features": features, "item": torch.full((size,), number, dtype=torch.int32)}


def written(folder: Path, sizes: list[int], kills: set[int] = frozenset(), saved: bool = True) -> FeatureFolder:
    """Write batches of `sizes`. In batches `kills` the writer dies, with or without the time to save."""
    folder.mkdir(exist_ok=True)
    pending = set(kills)
    while True:
        writer = ShardWriter(folder, DESCRIPTION, rows_per_shard=4, clock=lambda: 0.0)
        writer.write_items((number, f"item {number}", size) for number, size in enumerate(sizes))
        for number in range(writer.place.batch, len(sizes)):
            if number in pending:
                pending.remove(number)
                if saved:
                    writer.save()
                break
            writer.add(batch(number, sizes[number]), Place(number + 1, {9: "damaged"} if number > 1 else {}))
        else:
            writer.finish()
            return FeatureFolder.open(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.sets(st.integers(0, 7)), st.booleans())
def test_an_interruption_changes_nothing(tmp_path: Path, sizes: list[int], kills: set[int], saved: bool) -> None:
    whole, broken = (tmp_path / str(next(_FOLDERS)) for _ in range(2))
    found = written(broken, sizes, kills, saved)
    written(whole, sizes)
    assert {p.name: p.read_bytes() for p in broken.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}
    assert len(found) == sum(sizes)
    rows = [row for shard in found.shards() for row in shard["item"].tolist()]
    assert rows == [number for number, size in enumerate(sizes) for _ in range(size)]
    # A shard ends with the first batch that fills it.
    assert all(shard["rows"] >= 4 for shard in found.index["shards"][:-1])


def test_a_shard_that_grows_is_saved_from_time_to_time(tmp_path: Path) -> None:
    now = 0.0
    writer = ShardWriter(tmp_path, DESCRIPTION, rows_per_shard=100, clock=lambda: now)
    writer.add(batch(0, 3), Place(1))
    assert not (tmp_path / shard_name(0)).exists()
    now = 61.0
    writer.add(batch(1, 2), Place(2))
    assert load_file(tmp_path / shard_name(0))["item"].tolist() == [0, 0, 0, 1, 1]
    assert ShardWriter(tmp_path, DESCRIPTION, 100).place.batch == 2


def test_others_can_read_it(tmp_path: Path) -> None:
    found = written(tmp_path, [3, 2, 1])
    index = json.loads((tmp_path / "index.json").read_text())
    assert (index["rows"], index["finished"], index["left_out"]) == (6, True, {"9": "damaged"})
    assert [shard["file"] for shard in index["shards"]] == [shard_name(0), shard_name(1)]
    assert (tmp_path / "items.csv").read_text().splitlines() == [
        "item,name,frames", "0,item 0,3", "1,item 1,2", "2,item 2,1"
    ]  # fmt: skip
    assert found.names == ("item 0", "item 1", "item 2")
    assert found.read()["features"][:, 0].tolist() == [0, 0, 0, 1, 1, 2]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no features at .*: make some with `python -m worldmodel.features`"):
        FeatureFolder.open(tmp_path)
    writer = ShardWriter(tmp_path, DESCRIPTION, 4)
    with pytest.raises(UserError, match="are unfinished: repeat the command"):
        FeatureFolder.open(tmp_path)
    with pytest.raises(UserError, match="holds features with encoder_hash=abc, this command asks for xyz"):
        ShardWriter(tmp_path, {**DESCRIPTION, "encoder_hash": "xyz"}, 4)
    writer.add(batch(0, 5), Place(1))
    (tmp_path / shard_name(0)).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"remove .* to start over"):
        ShardWriter(tmp_path, DESCRIPTION, 4)
    (tmp_path / "index.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match="does not describe features of format 1"):
        ShardWriter(tmp_path, DESCRIPTION, 4)


def test_shards_of_other_features_are_not_gone_on_with(tmp_path: Path) -> None:
    ShardWriter(tmp_path, {**DESCRIPTION, "encoder_hash": "xyz"}, 4).add(batch(0, 5), Place(1))
    (tmp_path / "index.json").unlink()
    ShardWriter(tmp_path, DESCRIPTION, 4)
    assert ShardWriter(tmp_path, DESCRIPTION, 4).place == Place()
