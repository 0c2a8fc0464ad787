"""Sums and means over the rows of all ranks, through which gradients flow.

A training on several ranks minimises the mean of their losses. A loss that uses a statistic of the batch, such as
VICReg's covariance, computes it from all ranks' rows with these functions. Every rank then has the loss of the whole
batch, and the mean of the ranks' gradients is its gradient. Alone, a rank computes exactly what it would without this
module.

Shapes: `R` rows of this rank, as many as every other rank has, and `D` features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from worldmodel.core.ranks import here


class _Sum(torch.autograd.Function):
    """y = sum over ranks of x_r. The losses of all ranks depend on every x_r, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _sum(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


def _sum(values: Tensor) -> Tensor:
    total = values.detach().contiguous().clone()
    dist.all_reduce(total)
    return total


def total(values: Tensor) -> Tensor:
    """The sum of `values [...]` over all ranks."""
    return values if here().count == 1 else _Sum.apply(values)


def mean(values: Tensor) -> Tensor:
    """The mean of `values [...]` over all ranks. Of means over equal numbers of rows, it is the mean over all rows."""
    return values if here().count == 1 else total(values) / here().count


def variance(rows: Tensor) -> Tensor:
    """The unbiased variance `[D]` of `rows [R, D]` of all ranks."""
    if here().count == 1:
        return rows.var(0)
    centred = rows - mean(rows.mean(0))
    return total(centred.pow(2).sum(0)) / (here().count * len(rows) - 1)


def average(values: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of every scalar over all ranks. All ranks have the same names, in the same order."""
    if here().count == 1:
        return {name: value.item() for name, value in values.items()}
    means = mean(torch.stack([value.detach().double().reshape(()).cpu() for value in values.values()]))
    return dict(zip(values, means.tolist(), strict=True))


def largest(values: Mapping[str, float]) -> dict[str, float]:
    """The largest of every number over all ranks. All ranks have the same names, in the same order."""
    if here().count == 1 or not values:
        return dict(values)
    found = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return dict(zip(values, found.tolist(), strict=True))


def on_any(*happened: bool) -> tuple[bool, ...]:
    """Whether each of these happened on some rank. All ranks get the same answer."""
    named = {str(number): float(one) for number, one in enumerate(happened)}
    return tuple(bool(value) for value in largest(named).values())


def make_alike(module: torch.nn.Module) -> None:
    """Give all ranks the first one's parameters and buffers, since machines may round differently."""
    if here().count > 1:
        for value in (*module.parameters(), *module.buffers()):
            plain = value.detach()
            dist.broadcast(plain.view(torch.uint8) if plain.dtype == torch.bool else plain, src=0)  # gloo has no bool
