from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from worldmodel.core.tensor_record import TensorRecord


@dataclasses.dataclass(frozen=True)
class Inner(TensorRecord):
    code: Tensor


@dataclasses.dataclass(frozen=True)
class Outer(TensorRecord):
    inner: Inner
    place: Tensor
    past: Tensor | None = None


def record(rows: int) -> Outer:
    return Outer(Inner(torch.arange(rows * 2.0).view(rows, 2)), torch.arange(rows * 3.0).view(rows, 3))


def test_rows_are_taken_from_every_part() -> None:
    taken = record(4).rows([2, 0])
    assert taken.inner.code.tolist() == [[4, 5], [0, 1]] and taken.place[:, 0].tolist() == [6, 0]
    assert taken.past is None


def test_rows_taken_apart_come_together_again() -> None:
    whole = record(4)
    again = Outer.cat([whole.rows(slice(i, i + 1)) for i in range(4)])
    assert torch.equal(again.inner.code, whole.inner.code) and torch.equal(again.place, whole.place)
    assert again.past is None


def test_a_change_of_shape_reaches_every_part() -> None:
    spread = record(2).map(lambda part: part[:, None].expand(-1, 5, -1))
    assert spread.inner.code.shape == (2, 5, 2) and spread.place.shape == (2, 5, 3)
