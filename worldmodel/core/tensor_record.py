"""Frozen dataclasses of tensors whose rows belong together, such as a model's latents and an optimiser's memory.

Planning does not read their content. It only selects rows and joins them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

import torch
from torch import Tensor

# Between the names of nested fields, since torch allows no dot in the name of a buffer.
SEPARATOR: Final = "__"


@dataclasses.dataclass(frozen=True)
class TensorRecord:
    """The base class of such dataclasses. Their fields are tensors `[B, ...]`, other records, or None."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply the same `change` of shape to every tensor."""
        return type(self)(**{name: _apply(change, value) for name, value in self._fields().items()})

    def rows(self, index: Any) -> Self:
        """Some of the rows, selected by `index` in the first dimension of every tensor."""
        return self.map(lambda part: part[index])

    @classmethod
    def cat(cls, records: Sequence[Self], dim: int = 0) -> Self:
        """Concatenate the rows of several records."""
        together = zip(*(record._fields().values() for record in records), strict=True)
        names = records[0]._fields()
        return type(records[0])(**{name: _cat(parts, dim) for name, parts in zip(names, together, strict=True)})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name. Those of a record inside of this one have both names, joined by `SEPARATOR`."""
        found: dict[str, Tensor] = {}
        for name, value in self._fields().items():
            if isinstance(value, TensorRecord):
                found |= {f"{name}{SEPARATOR}{inner}": tensor for inner, tensor in value.tensors().items()}
            elif value is not None:
                found[name] = value
        return found

    def with_tensors(self, values: Mapping[str, Tensor], prefix: str = "") -> Self:
        """The same record with other tensors, which `values` names as `tensors` does, after `prefix`."""
        changed: dict[str, Any] = {}
        for name, value in self._fields().items():
            if isinstance(value, TensorRecord):
                changed[name] = value.with_tensors(values, f"{prefix}{name}{SEPARATOR}")
            elif value is not None:
                changed[name] = values[f"{prefix}{name}"]
        return dataclasses.replace(self, **changed)

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
