"""Frozen dataclasses of tensors whose rows belong together: a model's latents, an optimiser's memory.

Planning does not read their content. It only selects rows and joins them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class TensorRecord:
    """Derive a frozen dataclass from it; its fields are tensors `[B, ...]`, other records, or None."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same `change` of shape to every tensor."""
        return type(self)(**{name: _apply(change, value) for name, value in self._fields().items()})

    def rows(self, index: Any) -> Self:
        """Some of the rows: every tensor indexed by `index` in its first dimension."""
        return self.map(lambda part: part[index])

    @classmethod
    def cat(cls, records: Sequence[Self], dim: int = 0) -> Self:
        """Rows of several records, one after the other."""
        together = zip(*(record._fields().values() for record in records), strict=True)
        names = records[0]._fields()
        return type(records[0])(**{name: _cat(parts, dim) for name, parts in zip(names, together, strict=True)})

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _apply(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if value is None:
        return None
    return value.map(change) if isinstance(value, TensorRecord) else change(value)


def _cat(parts: Sequence[Any], dim: int) -> Any:
    if parts[0] is None:
        return None
    return type(parts[0]).cat(parts, dim) if isinstance(parts[0], TensorRecord) else torch.cat(list(parts), dim)
