"""Where networks run."""

from __future__ import annotations

import torch

from configs.command import UserError


def pick_device(name: str) -> torch.device:
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1` or `mps`. Raises UserError for one that is missing."""
    available = ["cpu"]
    if torch.cuda.is_available():
        available += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    if name == "auto":
        return torch.device("cuda" if "cuda" in available else available[-1])
    if name not in available:
        raise UserError(f"device '{name}' is not on this machine: choose from auto, {', '.join(available)}")
    return torch.device(name)
