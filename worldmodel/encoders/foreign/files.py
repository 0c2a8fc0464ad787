"""Files of weights that others have written: PyTorch's `.pt`, and the folders of Hugging Face.

Nothing in them can run code. `.pt` files are read with `weights_only=True`, which accepts tensors and plain values.
Tensors stay on the disk until they are used, since an official `.pt` also holds an optimiser and other networks.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.core.files import regular_file
from worldmodel.core.strict_json import parse_json
from worldmodel.core.weights import require_sane

# Folders in which a file is looked for by its name, if it is not where a checkpoint says.
ENCODERS_VARIABLE: Final = "WORLDMODEL_ENCODERS"
_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_MOST_JSON: Final = 2**24  # bytes; the index of a model of a billion parameters has 2**17


def find(reference: str) -> Path:
    """The file or folder at `reference`, or one of the same name in a folder of the environment's variable.

    Raises:
        UserError: if there is none.
    """
    path = Path(reference)
    others = [folder for folder in os.environ.get(ENCODERS_VARIABLE, "").split(os.pathsep) if folder]
    for candidate in (path, *(Path(folder) / path.name for folder in others)):
        try:
            if candidate.exists():
                return candidate
        except (OSError, ValueError) as error:
            raise UserError(f"no encoder can be at {reference!r:.80}: {error}") from error
    raise UserError(
        f"no encoder at {reference}: expected a .pt file, or a folder with {_CONFIG} and {_WEIGHTS}, there or by the "
        f"same name in one of the folders in {ENCODERS_VARIABLE}"
    )


def read_pt(path: Path) -> dict[str, Any]:
    """The content of a `.pt` file of networks by name, on the CPU. Raises UserError for one that cannot be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} cannot be read: it holds more than tensors and plain values") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        reason = (str(error).splitlines() or ["?"])[0]
        raise UserError(f"{path} cannot be read as a .pt file: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}: expected networks by name")
    return content


def network_of(content: Mapping[str, Any], names: tuple[str, ...], path: Path) -> dict[str, Tensor]:
    """The tensors of the first network of `names` that `content` has, without the prefixes of wrappers.

    Raises:
        UserError: if it has none of them, or something else in their place.
    """
    for name in names:
        if name in content:
            network = content[name]
            if not isinstance(network, dict) or not all(isinstance(value, Tensor) for value in network.values()):
                raise UserError(f"{path}: {name} holds something else than tensors by name")
            # DistributedDataParallel adds `module.`, and Meta's wrapper of several clips `backbone.`.
            return {key.replace("module.", "").replace("backbone.", ""): value for key, value in network.items()}
    has = ", ".join(sorted(map(str, content))[:8])
    raise UserError(f"{path} has none of {', '.join(names)}: it has {has:.200}")


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """`config.json` of a folder. Raises UserError unless its `model_type` begins with `kind`."""
    values = _read_json(folder / _CONFIG)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or not model_type.startswith(kind):
        raise UserError(f"{folder / _CONFIG} describes a model of type {model_type!r:.40}, expected {kind}")
    return values


def read_folder(folder: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Tensors of a folder, from one file or several, that begin with one of `prefixes`. The prefix is removed.

    Raises:
        UserError: for a folder without weights, or with weights that cannot be read.
    """
    files = [folder / _WEIGHTS]
    if not files[0].exists() and (folder / _INDEX).exists():
        named = _read_json(folder / _INDEX).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            raise UserError(f"{folder / _INDEX} names no files")
        files = [folder / name for name in sorted(set(named.values()))]
        outside = [file for file in files if file.parent != folder]
        if outside:
            raise UserError(f"{folder / _INDEX} names {str(outside[0])!r:.80}, which is not in the folder")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (this is no mapping)
                    prefix = next((p for p in prefixes if name.startswith(p)), None)
                    if prefix is not None:
                        tensors[name.removeprefix(prefix)] = opened.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
    return tensors


def require_fit(tensors: Mapping[str, Tensor], network: torch.nn.Module, path: Path) -> dict[str, Tensor]:
    """`tensors` in float32, if they are those of `network`. Raises UserError that names the first difference."""
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name in sorted(set(wanted) ^ set(tensors)):
        problem = "missing" if name in wanted else "too many"
        raise UserError(f"{path} holds another network: tensor {name!r:.80} is {problem}")
    for name, value in tensors.items():
        if tuple(value.shape) != wanted[name]:
            raise UserError(
                f"{path} holds another network: {name} has shape {tuple(value.shape)}, expected {wanted[name]}"
            )
        if not value.is_floating_point():
            raise UserError(f"{path}: tensor {name} is of type {value.dtype}, expected floating point")
    require_sane(tensors, path)
    return {name: value.to(torch.float32, copy=True).contiguous() for name, value in tensors.items()}


def with_joined_heads(tensors: Mapping[str, Tensor], attention: str, joined: str) -> dict[str, Tensor]:
    """`tensors` in which `*.<attention>.query`, `key` and `value` of every block have become one, `*.<joined>`."""
    parts, result = ("query", "key", "value"), dict[str, Tensor]()
    for name, value in tensors.items():
        block, _, rest = name.partition(f".{attention}.")
        part, _, kind = rest.partition(".")
        if part not in parts:
            result[name] = value
        elif part == "query":
            names = [f"{block}.{attention}.{each}.{kind}" for each in parts]
            # One that is missing gives a matrix of another shape, which `require_fit` refuses.
            result[f"{block}.{joined}.{kind}"] = torch.cat([tensors[each] for each in names if each in tensors])
    return result


def require_plain(values: Mapping[str, Any], plain: Mapping[str, Any], path: Path) -> None:
    """Raises UserError for options of a `config.json` that are not as in the official models, which `plain` lists."""
    for name, wanted in plain.items():
        if values.get(name, wanted) != wanted:
            raise UserError(f"{path}: {name} is {values[name]!r:.40}, expected {wanted}")


def whole_number(values: Mapping[str, Any], name: str, path: Path) -> int:
    """A size in `values`, also if it is written as a square `[n, n]`. Raises UserError for anything else."""
    value = values.get(name)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if type(value) is not int or not 1 <= value <= 2**16:
        raise UserError(f"{path}: {name} is {value!r:.40}, expected a whole number from 1 on")
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with regular_file(path, _MOST_JSON) as file:
            values = parse_json(file.read(_MOST_JSON), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} cannot be read: expected values by name")
    return values
