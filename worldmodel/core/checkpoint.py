"""Checkpoints: a folder with `config.json` and safetensors, nothing that can run code.

A folder holds either a frozen encoder (`kind: encoder`) or a world model (`kind: world_model`, which contains one).
What to build is decided by `kind` and numbers; a checkpoint never names a class.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.files import replacing, write_json

FORMAT_VERSION = 1


def shipped_names() -> list[str]:
    """Names of the checkpoints that come with the package."""
    folder = resources.files("worldmodel") / "pretrained"
    return sorted(p.name for p in folder.iterdir() if (p / "config.json").is_file()) if folder.is_dir() else []


def resolve(name_or_path: str) -> Path:
    """The folder of a shipped checkpoint's name, or of a path. Raises UserError when there is neither."""
    if name_or_path in shipped_names():
        return Path(str(resources.files("worldmodel") / "pretrained" / name_or_path))
    path = Path(name_or_path)
    if (path / "config.json").is_file():
        return path
    if path.is_dir():
        raise UserError(f"{path} is not a checkpoint: it has no config.json (is the training finished?)")
    folders = "the folder of a world model that `python -m worldmodel.train` made"
    if not shipped_names():
        raise UserError(f"unknown checkpoint '{name_or_path}': give {folders} (none is shipped)")
    raise UserError(choices_message("checkpoint", name_or_path, shipped_names()) + f", or give {folders}")


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save(folder: Path, kind: str, config: dict[str, Any], module: nn.Module, half: bool) -> None:
    """Write a checkpoint; `config.json` comes last and makes it whole.

    Args:
        folder: made if needed.
        kind: `encoder` or `world_model`.
        config: what is needed to build the module again.
        module: its parameters and buffers are stored.
        half: store matrices as float16 (half the size); statistics and vectors stay float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (value.half() if half and value.ndim >= 2 and not name.endswith("mean") else value).cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    (folder / "config.json").unlink(missing_ok=True)
    with replacing(folder / "model.safetensors") as file:
        file.write(to_bytes(tensors))
    write_json({"format_version": FORMAT_VERSION, "kind": kind, **config}, folder / "config.json")


def load_config(folder: Path, kind: str) -> dict[str, Any]:
    """Read and check `config.json`. Raises UserError for one that is damaged, newer, or of another kind."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be read: {error}") from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{folder} has checkpoint format {version}, this program reads {FORMAT_VERSION}")
    if config.get("kind") != kind:
        raise UserError(f"{folder} holds a checkpoint of kind '{config.get('kind')}', expected '{kind}'")
    return dict(config)


def load_weights(folder: Path, module: nn.Module) -> None:
    """Fill `module` from the folder's safetensors. Raises UserError for a damaged file or other shapes."""
    path = folder / "model.safetensors"
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    wanted = module.state_dict()
    for name in sorted(set(wanted) ^ set(tensors)):
        raise UserError(f"{path} does not fit its config.json: tensor '{name}' is missing or too many")
    for name, value in tensors.items():
        if value.shape != wanted[name].shape:
            raise UserError(
                f"{path} does not fit its config.json: tensor '{name}' has shape {tuple(value.shape)}, "
                f"expected {tuple(wanted[name].shape)}"
            )
    module.load_state_dict({name: value.to(torch.float32) for name, value in tensors.items()})
