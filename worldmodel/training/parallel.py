"""How the work of a training is divided among ranks.

Every rank computes its share of a batch (`TrainingTask.share`), and the gradients are averaged. With `ddp`, every rank
has all weights, as in torch's `DistributedDataParallel`. With `fsdp`, every rank keeps a part of the weights and of the
optimiser's averages, and has the others only while a block needs them (`fully_shard`, FSDP2). It writes its part of a
checkpoint (`worldmodel.training.parts`). In either case, a training can go on with another number of ranks, or divided
in another way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from worldmodel.core.errors import choices_message
from worldmodel.core.ranks import Rank, here

DDP: Final = "ddp"
FSDP: Final = "fsdp"
PARALLEL: Final = (DDP, FSDP)
Values = dict[str, Tensor]


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

    def write_part(self, folder: Path, step: int, optimiser: torch.optim.Optimizer) -> None:
        """Write this rank's part of the checkpoint of `step`, if `in_parts`. Raises OSError."""

    def finish(self) -> None:
        """Give the first rank's task a module with whole weights. Every rank calls it."""


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
    # What only several ranks need takes a second to import.
    from worldmodel.training.division import Replicated, Sharded

    return Sharded(task, device) if kind == FSDP else Replicated(task.module)


def parameters_of(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All trained parameters, in the order of the optimiser."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def own(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be divided."""
    divided: Any = tensor
    return divided.to_local() if _is_divided(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be divided, on every rank. All ranks call it."""
    divided: Any = tensor
    return divided.full_tensor() if _is_divided(tensor) else tensor


def _is_divided(tensor: Tensor) -> bool:
    """Whether it is a DTensor, without importing the class."""
    return hasattr(tensor, "full_tensor")
