"""A training on several ranks, replicated or sharded. Only they import this module, since that takes a second."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from worldmodel.core.ranks import here
from worldmodel.training import parts
from worldmodel.training.collectives import make_alike
from worldmodel.training.parallel import Divisible, Division, Values, whole

# What torch calls the option that sends buffers in every step; renamed in 2.13.
_NAMES: Final = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS: Final = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"


class _Forward(nn.Module):
    """The forward pass of a task, as the module that `DistributedDataParallel` wraps.

    Tasks call parts of their module, and not only the module itself.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, losses: Iterator[Values]) -> Values:
        return next(losses)


class Replicated(Division):
    def __init__(self, module: nn.Module) -> None:
        # A group of its own, so that averaging gradients never waits for the statistics of a loss, or they for it.
        # Some steps leave some parameters out, such as those with single images. Buffers stay alike once they are.
        options = {"process_group": dist.new_group(), "find_unused_parameters": True, _SYNC_BUFFERS: False}
        make_alike(module)
        self._wrapped = DistributedDataParallel(_Forward(module), **options)

    def forward(self, losses: Iterator[Values], is_last: bool) -> Values:
        with contextlib.nullcontext() if is_last else self._wrapped.no_sync():
            values: Values = self._wrapped(losses)
        return values


class Sharded(Division):
    in_parts = True

    def __init__(self, task: Divisible, device: torch.device) -> None:
        self._task, self._whole = task, copy.deepcopy(task.module).cpu() if here().is_first else None
        task.shard(init_device_mesh(device.type, (here().count,)))

    def forward(self, losses: Iterator[Values], is_last: bool) -> Values:
        with warnings.catch_warnings():
            # The mask predictor returns a part of its tokens. Nothing changes it in place.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
            return next(losses)

    def scatter(self, state: dict[str, Any], parameters: list[nn.Parameter]) -> dict[str, Any]:
        divided = {
            number: {name: _like(parameters[number], value) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        return {**state, "state": divided}

    def write_part(self, folder: Path, step: int, optimiser: torch.optim.Optimizer) -> None:
        parts.save(folder, step, self._task.module, optimiser)

    def finish(self) -> None:
        state = {}
        for name, value in self._task.module.state_dict().items():
            gathered = whole(value)  # one at a time, since all together may not fit into the memory of a GPU
            if here().is_first:
                state[name] = gathered.cpu()
        if self._whole is not None:
            self._whole.load_state_dict(state)
            self._task.module = self._whole


def _like(parameter: nn.Parameter, value: Any) -> Any:
    """`value`, divided as `parameter` is if it has as many numbers."""
    divided: Any = parameter.data
    if not isinstance(divided, DTensor) or not isinstance(value, Tensor) or value.shape != divided.shape:
        return value
    # Every rank has read the whole tensor.
    mesh, placements = divided.device_mesh, divided.placements
    return distribute_tensor(value.to(divided.device), mesh, placements, src_data_rank=None)
