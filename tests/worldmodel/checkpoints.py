"""Changes a checkpoint, and makes its digest anew: as somebody would who knows how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from worldmodel.core import checkpoint


def seal(folder: Path) -> None:
    """Make the digest of what `folder` holds now."""
    config = json.loads((folder / "config.json").read_text())
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    sealed = {**config, "digest": checkpoint._digest(config, weights)}
    (folder / "config.json").write_bytes(checkpoint._text(sealed))


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the values of `config.json`."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    seal(folder)


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    seal(folder)
