"""The device and the precision of networks."""

from __future__ import annotations

import torch

from worldmodel.core.errors import UserError, choices_message


def pick_device(name: str) -> torch.device:
    """The device for `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` or `mps`. Raises UserError if missing."""
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


def pick_compile(choice: str | bool, device: torch.device) -> bool:
    """Whether to compile. `auto` compiles on CUDA, where launching kernels dominates the time. Raises UserError."""
    if isinstance(choice, bool):
        return choice
    if choice != "auto":
        raise UserError(f"compile '{choice}' is unknown: choose from auto, true, false")
    return device.type == "cuda"


def pick_precision(name: str) -> torch.dtype:
    """The type for `bf16` or `fp32`. Raises UserError for another name."""
    precisions = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if name not in precisions:
        raise UserError(choices_message("precision", str(name), precisions))
    return precisions[name]
