"""Untrusted weights in the safetensors format (https://github.com/huggingface/safetensors).

A file begins with eight bytes that give the length of its header. The header follows, as JSON with type, shape and
offset of every tensor. Building a module stops when it needs more memory than the header declares.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.overrides import TorchFunctionMode

from worldmodel.core.errors import UserError
from worldmodel.core.files import regular_file
from worldmodel.core.strict_json import parse_json

MOST_BYTES: Final = 2**32  # size of a file with a billion parameters in single precision
_MOST_HEADER: Final = 2**22
_SPARE_NUMBERS: Final = 2**22  # numbers in a module beside its weights, such as positions of tokens
# Functions that create tensors, by the form in which they receive the size.
_BY_SIZE: Final = {
    torch.empty, torch.full, torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.zeros
}  # fmt: skip
_BY_STEPS: Final = {torch.linspace, torch.logspace}
_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}
Shape = tuple[int, ...]


class TooLargeError(ValueError):
    """A module needs more than the weights in the file can account for."""


class WeightsFile:
    """An open file whose header has been read and found to match the file's size.

    Args:
        file: the file, at its beginning.
        size: size of the file [bytes].
        path: path of the file, for messages.

    Attributes:
        shapes: shapes of all tensors by name.

    Raises:
        UserError: for an invalid header, or tensors of other types than floating point of 16 or 32 bits.
    """

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file, self._path, self._size = file, path, size
        self._begin = file.read(8)
        length = int.from_bytes(self._begin, "little")
        if len(self._begin) < 8 or length > min(size - 8, _MOST_HEADER):
            raise UserError(f"{path} cannot be read: it is cut off, or no safetensors file")
        self._begin += file.read(length)
        header = parse_json(self._begin[8:], str(path))
        if not isinstance(header, dict):
            raise UserError(f"{path} cannot be read: its header is no list of tensors")
        header.pop("__metadata__", None)
        self.shapes: dict[str, Shape] = {}
        total = 0
        for name, entry in header.items():
            kind, shape = self._read_entry(name, entry)
            self.shapes[name] = shape
            total += math.prod(shape) * _BYTES[kind]
        if total != size - 8 - length:
            raise UserError(f"{path} cannot be read: it has {size - 8 - length} bytes of tensors, its header {total}")

    def _read_entry(self, name: str, entry: Any) -> tuple[str, Shape]:
        kind, shape = (entry.get(key) if isinstance(entry, dict) else None for key in ("dtype", "shape"))
        if not isinstance(kind, str) or kind not in _BYTES:
            raise UserError(f"{self._path}: tensor {name!r} is of type {kind!r}: choose from {', '.join(_BYTES)}")
        if not isinstance(shape, list) or not all(type(side) is int and 0 <= side <= MOST_BYTES for side in shape):
            raise UserError(f"{self._path}: tensor {name!r} has a shape of another kind than whole numbers")
        return kind, tuple(shape)

    def read(self) -> tuple[dict[str, Tensor], str]:
        """All tensors, and the SHA-256 of the whole file. Raises UserError if the file cannot be read."""
        content = self._begin + self._file.read(self._size - len(self._begin))
        try:
            tensors = from_bytes(content)
        except (SafetensorError, ValueError) as error:
            raise UserError(f"{self._path} cannot be read: {error}") from error
        # The library may interpret a header differently, for example one that names a tensor twice.
        require_shapes({name: tuple(value.shape) for name, value in tensors.items()}, self.shapes, self._path)
        return tensors, hashlib.sha256(content).hexdigest()


@contextmanager
def open_weights(path: Path) -> Iterator[WeightsFile]:
    """Open a safetensors file and check its header. Raises UserError if it cannot be read."""
    try:
        with regular_file(path, MOST_BYTES) as file:
            yield WeightsFile(file, path.stat().st_size, path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def require_shapes(shapes: Mapping[str, Shape], wanted: Mapping[str, Shape], path: Path) -> None:
    """Raises UserError, naming the first difference, if `path` has other tensors or shapes than `wanted`."""
    for name in sorted(set(wanted) ^ set(shapes)):
        problem = "missing" if name in wanted else "too many"
        raise UserError(f"{path} does not fit its config.json: tensor {name!r} is {problem}")
    for name, shape in shapes.items():
        if shape != wanted[name]:
            raise UserError(
                f"{path} does not fit its config.json: tensor {name!r} has shape {shape}, expected {wanted[name]}"
            )


class _Within(TorchFunctionMode):
    """A context in which all new tensors together may have at most `most` numbers."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        self._left -= _numbers_made(function, args, given)
        if self._left < 0:
            raise TooLargeError("its parts are larger than its weights can be for")
        return function(*args, **given)


def _numbers_made(function: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> int:
    """Number of elements of the tensor that a call of torch is about to make, computed from the arguments.

    Torch could tell from a tensor on its `meta` device, but imports a thousand modules for that.
    """
    if function in _BY_SIZE:
        listed = [value for value in (given.get("size"), *args) if isinstance(value, list | tuple)]
        return max(0, math.prod(listed[0] if listed else args))
    if function is torch.eye:
        return max(0, args[0] * args[-1])
    if function in _BY_STEPS:
        return int(given.get("steps", args[-1] if len(args) > 2 else 0))
    if function is torch.arange and args:
        first, last, step = (0, args[0], 1) if len(args) == 1 else (*args[:2], args[2] if len(args) > 2 else 1)
        return max(0, math.ceil((last - first) / step))
    return 0


def make_within(make: Callable[[], nn.Module], weights: WeightsFile) -> nn.Module:
    """The module that `make` builds, which must have the tensors of `weights`.

    Raises:
        TooLargeError: as soon as it needs many more parts than `weights` has, or larger ones, before their allocation.
        UserError: when it has other tensors.
        TypeError, ValueError: when `make` raises them, or sizes are beyond any machine.
    """
    # Beside each parameter, a module has a handful of submodules and tensors that are not stored.
    most_parts, parts, ours = 8 * len(weights.shapes) + 256, 0, threading.get_ident()

    def count(*_: Any) -> None:
        nonlocal parts
        if threading.get_ident() != ours:
            return
        parts += 1
        if parts > most_parts:
            raise TooLargeError(f"its parts are more than the {len(weights.shapes)} tensors can be for")

    hooks = [
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
        registration.register_module_module_registration_hook(count),
    ]
    numbers = sum(math.prod(shape) for shape in weights.shapes.values())
    try:
        with _Within(4 * numbers + _SPARE_NUMBERS):
            return make()
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError((str(error).splitlines() or ["its sizes are too large"])[0]) from error
    finally:
        for hook in hooks:
            hook.remove()


def require_sane(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises UserError for numbers that are not finite, and for divisors (`std`, `..._std`) that are not above 0."""
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"{path}: tensor {name!r} has numbers that are not finite")
        if name.rpartition(".")[2].rpartition("_")[2] == "std" and not bool((value > 0).all()):
            raise UserError(f"{path}: tensor {name!r} is a spread, and has numbers that are not above 0")
