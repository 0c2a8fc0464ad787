"""The device and the precision of networks."""

from __future__ import annotations

import functools
import platform
from typing import Final

import torch

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.ranks import Rank, here

PRECISIONS: Final = ("auto", "bf16", "fp32")
ONNX: Final = "onnx"  # a choice of `pick_compile`
DTYPES: Final = {"bf16": torch.bfloat16, "fp32": torch.float32}


def pick_device(name: str) -> torch.device:
    """The device for `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` or `mps`. Raises UserError if missing.

    Several ranks of a machine have a GPU each, or share the CPU.
    """
    if here().count > 1:
        return _device_of_rank(name, here())
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


def _device_of_rank(name: str, rank: Rank) -> torch.device:
    gpus = torch.cuda.device_count()
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device '{name}' for {rank.count} ranks: expected auto, cuda or cpu, since each has its own")
    if name == "cpu" or (name == "auto" and not gpus):
        return torch.device("cpu")
    if rank.local >= gpus:
        raise UserError(f"this machine has {gpus} GPUs and more ranks: expected one rank for each GPU, or device=cpu")
    torch.cuda.set_device(rank.local)
    return torch.device("cuda", rank.local)


def pick_compile(choice: str | bool, device: torch.device) -> str | bool:
    """Whether torch.compile compiles imagined futures, or `onnx`. Raises UserError for another choice.

    `auto` compiles on CUDA, where launching kernels dominates the time.
    """
    if isinstance(choice, bool) or choice == ONNX:
        return choice
    if choice != "auto":
        raise UserError(f"compile '{choice}' is unknown: choose from auto, true, false, {ONNX}")
    return device.type == "cuda"


def pick_precision(name: str, device: torch.device) -> str:
    """`bf16` or `fp32`. `auto` is bf16 where `device` has instructions for it, else fp32.

    A CPU without them takes over ten times as long for a product in bf16 as in fp32.

    Raises:
        UserError: for another name.
    """
    check_precision(name)
    if name != "auto":
        return name
    return "bf16" if _computes_in_bf16(device.type) else "fp32"


def check_precision(name: str) -> None:
    """Raise UserError unless `name` is one of `PRECISIONS`."""
    if name not in PRECISIONS:
        raise UserError(choices_message("precision", str(name), PRECISIONS))


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which products on `device` have `precision`, one of `PRECISIONS`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=pick_precision(precision, device) == "bf16")


@functools.cache
def _computes_in_bf16(device: str) -> bool:
    """Whether devices of a type have instructions for bf16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return True
    # On x86, what torch calls supported is emulated unless one of these is there.
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
