"""JSON from strangers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.core.errors import UserError
from worldmodel.core.strict_json import parse_json

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


@given(values)
def test_what_json_knows_comes_back(value: Any) -> None:
    assert parse_json(json.dumps(value).encode(), "x") == value


@given(st.binary())
def test_anything_else_is_one_line(content: bytes) -> None:
    try:
        parse_json(content, "x.json")
    except UserError as error:
        assert str(error).startswith("x.json cannot be read: ") and "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[" * 10**6, "nested too deep"),
        (b"[" * 70 + b"]" * 70, "nested too deep"),
        (b'{"a":' * 10**5 + b"1" + b"}" * 10**5, "nested too deep"),
        (b"9" * 5000, "cannot be read"),
        (b"-Infinity", "-Infinity is no finite number"),
        (b"[NaN]", "NaN is no finite number"),
        (b"1e400", "a number is too large"),
        (b'"\\ud800"', "surrogates not allowed"),
        (b"\xff", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_odd_texts_are_refused(content: bytes, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        parse_json(content, "x.json")
