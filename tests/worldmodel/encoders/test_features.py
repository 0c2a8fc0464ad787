"""Normalisation, and the cache of frozen features."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.commands import refuse_to_write
from tests.worldmodel.toy import COMPRESSION, make_clips, make_encoder
from worldmodel.core import row_cache
from worldmodel.core.threads import threads_kept
from worldmodel.encoders import features
from worldmodel.encoders.features import FeatureCacheKey, encode_frames, encode_store
from worldmodel.models.compression import Compression
from worldmodel.models.normaliser import Normaliser

CPU = torch.device("cpu")
ROWS = 39  # twenty blocks of two, the last one half
KEY = FeatureCacheKey("store", "encoder", "compression", ROWS, 16, 8)


class PowerCutError(Exception):
    """What a test throws in the place of a kill."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "_BLOCK", 2)


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    return make_clips(batch=ROWS, frames=1)[:, 0].numpy()


def make_compression() -> Compression:
    """Fitted to noise: what matters here is that it is the same each time."""
    compression = Compression(COMPRESSION, num_tokens=16, token_size=32)
    compression.fit(torch.randn(1, 60, 16, 32, generator=torch.Generator().manual_seed(0)))
    return compression


def encode(
    frames: NDArray[np.uint8],
    path: Path,
    key: FeatureCacheKey = KEY,
    seed: int = 0,
    on_block: Callable[[int], None] = lambda done: None,
) -> tuple[NDArray[np.float16], list[int]]:
    """The features, and the row numbers that were reported as done."""
    reported: list[int] = []

    def progress(done: int, total: int) -> None:
        assert total == ROWS
        reported.append(done)
        on_block(done)

    return encode_store(make_encoder(seed), make_compression(), frames, key, path, CPU, progress), reported


def cut_at(row: int) -> Callable[[int], None]:
    def on_block(done: int) -> None:
        if done >= row:
            raise PowerCutError

    return on_block


def test_features_are_those_of_the_encoder(tmp_path: Path, frames: NDArray[np.uint8]) -> None:
    cached, reported = encode(frames, tmp_path / "run" / "features.npy")
    assert cached.dtype == np.float16
    assert reported == [*range(2, ROWS, 2), ROWS]
    with torch.no_grad():
        expected = make_compression()(make_encoder().encode_frames(torch.from_numpy(frames)))
    torch.testing.assert_close(torch.from_numpy(np.array(cached)).float(), expected, atol=0.05, rtol=0.05)
    with pytest.raises(ValueError, match="read-only"):
        cached[0] = 0


def test_a_finished_cache_is_not_made_again(tmp_path: Path, frames: NDArray[np.uint8]) -> None:
    first, _ = encode(frames, tmp_path / "features.npy")
    again, reported = encode(frames, tmp_path / "features.npy")
    assert reported == []
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("row", [2, 31, 32, 34, 38, ROWS])
def test_a_cut_run_goes_on_and_ends_alike(tmp_path: Path, frames: NDArray[np.uint8], row: int) -> None:
    whole, _ = encode(frames, tmp_path / "whole.npy")
    with pytest.raises(PowerCutError):
        encode(frames, tmp_path / "cut.npy", on_block=cut_at(row))
    resumed, reported = encode(frames, tmp_path / "cut.npy")
    np.testing.assert_array_equal(whole, resumed)
    assert len(reported) == {2: 20, 31: 4, 32: 4, 34: 4, 38: 4, ROWS: 0}[row], "noted after every sixteenth block"


@pytest.mark.parametrize("name", ["features.npy", "features.json"])
def test_features_that_a_full_disk_did_not_take_are_not_counted(
    tmp_path: Path, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole, _ = encode(frames, tmp_path / "whole.npy")
    with monkeypatch.context() as patch:

        def on_block(done: int) -> None:
            if done == 34:
                refuse_to_write(patch, name)

        with pytest.raises(OSError, match="No space left on device") as error:
            encode(frames, tmp_path / "features.npy", on_block=on_block)
    assert error.value.filename == str(tmp_path / name)
    resumed, reported = encode(frames, tmp_path / "features.npy")
    np.testing.assert_array_equal(whole, resumed)
    assert len(reported) == 4, "what was noted before counts"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["features.json", "features.npy", "whole.json", "whole.npy"]
    )


@pytest.mark.parametrize("field", ["store", "encoder", "compression"])
def test_features_of_another_key_are_not_taken_for_ours(tmp_path: Path, frames: NDArray[np.uint8], field: str) -> None:
    path, other = tmp_path / "features.npy", dataclasses.replace(KEY, **{field: "another"})
    ours, _ = encode(frames, path)
    ours = np.array(ours)
    with pytest.raises(PowerCutError):
        encode(frames, path, other, seed=1, on_block=cut_at(20))
    again, reported = encode(frames, path)
    assert len(reported) == 20, "the file is half the other's by now"
    np.testing.assert_array_equal(ours, again)


@pytest.mark.parametrize("damage", ["features gone", "features garbage", "note garbage", "note without rows"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, frames: NDArray[np.uint8], damage: str) -> None:
    path, note = tmp_path / "features.npy", tmp_path / "features.json"
    whole = np.array(encode(frames, path)[0])
    if damage == "features gone":
        path.unlink()
    elif damage == "features garbage":
        path.write_bytes(b"nothing")
    elif damage == "note garbage":
        note.write_text("{")
    else:
        note.write_text(json.dumps({"key": dataclasses.asdict(KEY)}))
    again, reported = encode(frames, path)
    assert len(reported) == 20
    np.testing.assert_array_equal(whole, again)


@pytest.mark.parametrize(("row", "made"), [(0, 20), (17, 12), (38, 1)])
def test_a_flipped_bit_is_found_and_mended(tmp_path: Path, frames: NDArray[np.uint8], row: int, made: int) -> None:
    path = tmp_path / "features.npy"
    whole = np.array(encode(frames, path)[0])
    content = bytearray(path.read_bytes())
    content[len(content) - (ROWS - row) * whole[0].nbytes + 5] ^= 4
    path.write_bytes(content)
    again, reported = encode(frames, path)
    assert len(reported) == made, "what comes before it is still good"
    np.testing.assert_array_equal(whole, again)


def test_features_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_AT_ONCE_ON_CPU", 4)
    frames, rows, encoded = make_clips(batch=ROWS, frames=1)[:, 0].numpy(), np.arange(ROWS), []
    with threads_kept():
        for count in (1, 2):
            torch.set_num_threads(count)
            encoded.append(encode_frames(make_encoder(), frames, rows, CPU))
    assert torch.equal(*encoded)


def test_frames_are_encoded_in_the_order_asked_for(frames: NDArray[np.uint8]) -> None:
    encoder, rows = make_encoder(), np.array([5, 0, 38, 5, 7])
    encoded = encode_frames(encoder, frames, rows, CPU)
    assert encoded.shape == (5, 16, 32)
    assert encoded.dtype == torch.float32
    assert not encoded.requires_grad
    with torch.no_grad():
        expected = encoder.encode_frames(torch.from_numpy(frames[rows]))
    torch.testing.assert_close(encoded, expected, atol=0.05, rtol=0.05)  # bf16


# --- normalisation -----------------------------------------------------------------------------------------------


def test_proprio_and_actions_use_their_own_statistics() -> None:
    norm = Normaliser(2, 3)
    norm.proprio_mean.copy_(torch.tensor([1.0, 2.0]))
    norm.action_std.copy_(torch.tensor([1.0, 2.0, 4.0]))
    assert norm.proprio(torch.tensor([[1.0, 5.0]])).tolist() == [[0.0, 3.0]]
    assert norm.actions(torch.tensor([4.0, 4.0, 4.0])).tolist() == [4.0, 2.0, 1.0]
    assert set(norm.state_dict()) == {f"{n}_{s}" for n in ("proprio", "action") for s in ("mean", "std")}
