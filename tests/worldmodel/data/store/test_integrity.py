"""Records say what an episode was, and whether they are themselves intact."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.data.store import integrity

NUM_DIGESTS = 5
RECORD_BYTES = 8 + 8 + 16 * NUM_DIGESTS + 8


def make(count: int) -> integrity.Records:
    rng = np.random.default_rng(count)
    digests = [[rng.bytes(16) for _ in range(NUM_DIGESTS)] for _ in range(count)]
    seeds = rng.integers(-(2**62), 2**62, count).tolist()
    return integrity.make_records(range(5, 5 + count), seeds, digests, NUM_DIGESTS)


@given(st.integers(0, 8))
def test_records_come_back_from_their_bytes(count: int) -> None:
    records = make(count)
    rows = integrity.to_bytes(records)
    assert rows.shape == (count, RECORD_BYTES)
    back = integrity.from_bytes(rows)
    assert (back == records).all()
    assert integrity.intact(back).all()


@given(st.integers(0, 3 * RECORD_BYTES * 8 - 1))
def test_a_flipped_bit_shows_in_its_record_alone_and_in_the_chain(bit: int) -> None:
    records = make(3)
    rows = integrity.to_bytes(records).copy()
    rows.ravel()[bit // 8] ^= 1 << bit % 8
    damaged = integrity.from_bytes(rows)
    assert integrity.intact(damaged).tolist() == [i != bit // 8 // RECORD_BYTES for i in range(3)]
    assert integrity.chain(damaged) != integrity.chain(records)


def test_the_order_of_episodes_counts() -> None:
    records = make(4)
    assert integrity.chain(records[[1, 0, 2, 3]]) != integrity.chain(records)


def test_a_digest_is_of_the_numbers_and_not_of_how_the_machine_holds_them() -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    wanted = integrity.column_digest(values)
    assert integrity.column_digest(values.astype(">f4")) == wanted
    assert integrity.column_digest(np.asfortranarray(values)) == wanted
    assert integrity.column_digest(values + 1) != wanted


def test_a_description_s_checksum_does_not_count_itself() -> None:
    plain = {"env": "toy", "b": [1, 2]}
    checksum = integrity.description_checksum(plain)
    assert integrity.description_checksum({"b": [1, 2], "checksum": checksum, "env": "toy"}) == checksum
    assert integrity.description_checksum(plain | {"env": "boy"}) != checksum
