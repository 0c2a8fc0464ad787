"""How the work of a training is divided among ranks.

Every rank computes its share of a batch (`TrainingTask.share`), and the gradients are averaged. With `ddp`, every rank
has all weights, as in torch's `DistributedDataParallel`. With `fsdp`, every rank keeps a part of the weights and of the
optimiser's averages, and has the others only while a block needs them (`fully_shard`, FSDP2). It writes its part of a
checkpoint (`worldmodel.training.parts`). In either case, a training can go on with another number of ranks, or divided
in another way.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Iterator
from typing import Any, Final, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from worldmodel.core.errors import choices_message
from worldmodel.core.ranks import Rank, here
from worldmodel.training.collectives import make_alike

DDP: Final = "ddp"
FSDP: Final = "fsdp"
PARALLEL: Final = (DDP, FSDP)
Values = dict[str, Tensor]
# What torch calls the option that sends buffers in every step; renamed in 2.13.
_NAMES: Final = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS: Final = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"


class Divisible(Protocol):
    """What `divide` needs of a `TrainingTask`."""

    module: nn.Module

    def share(self, rank: Rank) -> None: ...

    def shard(self, mesh: DeviceMesh) -> None: ...


class Division:
    """A training on one rank. Subclasses divide it.

    Attributes:
        in_parts: whether every rank has, and writes, only a part of the state.
    """

    in_parts = False

    def forward(self, losses: Iterator[Values], is_last: bool) -> Values:
        """The values of the next part of a batch. Gradients are averaged in the backward pass of the last part."""
        return next(losses)

    def scatter(self, state: dict[str, Any], parameters: list[nn.Parameter]) -> dict[str, Any]:
        """A state of an optimiser with whole tensors, with this rank's part of every tensor instead."""
        return state

    def finish(self) -> None:
        """Give the first rank's task a module with whole weights. Every rank calls it."""


class _Forward(nn.Module):
    """The forward pass of a task, as the module that `DistributedDataParallel` wraps.

    Tasks call parts of their module, and not only the module itself.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, losses: Iterator[Values]) -> Values:
        return next(losses)


class _Replicated(Division):
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


class _Sharded(Division):
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


def divide(task: Divisible, kind: str, device: torch.device) -> Division:
    """Divide the training of `task`, whose module is on `device`, among all ranks.

    Args:
        task: the task.
        kind: `ddp` or `fsdp`. It does not matter to a rank that is alone.
        device: device of the training.

    Raises:
        UserError: for a task that cannot be divided.
    """
    assert kind in PARALLEL, choices_message("parallel", kind, PARALLEL)
    if here().count == 1:
        return Division()
    task.share(here())
    return _Sharded(task, device) if kind == FSDP else _Replicated(task.module)


def own(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be divided, on every rank. All ranks call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
