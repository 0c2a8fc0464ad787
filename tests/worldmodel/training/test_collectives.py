"""Alone, a rank computes exactly what it would without collectives. `test_parallel.py` has two ranks."""

from __future__ import annotations

import torch

from worldmodel.training.collectives import average, largest, make_alike, mean, on_any, total, variance


def test_alone_nothing_changes() -> None:
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert total(rows) is rows and mean(rows) is rows
    assert torch.equal(variance(rows), rows.var(0))
    assert average({"loss": torch.tensor(0.25)}) == {"loss": 0.25}
    assert largest({"waited": 0.5}) == {"waited": 0.5} and largest({}) == {}
    assert on_any(True, False) == (True, False)
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.clone()
    make_alike(layer)
    assert torch.equal(layer.weight, before)
