"""The parts of a work: together they are all of it, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.core.errors import UserError
from worldmodel.core.shards import Shard, files_of_shards


@given(items=st.integers(0, 500), count=st.integers(1, 80))
def test_shards_have_every_item_once_and_in_order(items: int, count: int) -> None:
    shards = [Shard(number, count).of(items) for number in range(1, count + 1)]
    assert [item for shard in shards for item in shard] == list(range(items))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_shard_is_read_and_named() -> None:
    shard = Shard.read("3/64")
    assert shard == Shard(3, 64) and str(shard) == "3/64"
    assert shard.beside(Path("runs/push/data.zarr")) == Path("runs/push/data.003-of-064.zarr")
    assert Shard(3, 4000).beside(Path("a.b.zarr")).name == "a.b.0003-of-4000.zarr"


@pytest.mark.parametrize("text", ["", "3", "0/64", "65/64", "3/0", "-1/4", "1/4/4", "a/b", "1/200000"])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a number and a count, from 1/64 to 64/64"):
        Shard.read(text)


def test_the_files_of_shards_are_found_in_order(tmp_path: Path) -> None:
    path = tmp_path / "model-1a.jsonl"
    assert files_of_shards(tmp_path / "none" / "x.jsonl") == []
    shards = [Shard(number, 12) for number in (10, 2, 1)]
    for place in (*(shard.beside(path) for shard in shards), path, tmp_path / "model-1a.x.jsonl"):
        place.touch()
    assert files_of_shards(path) == [Shard(n, 12).beside(path) for n in (1, 2, 10)]
