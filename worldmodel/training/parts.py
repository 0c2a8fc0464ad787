"""Checkpoints in parts: of a training whose weights are divided, every rank writes what it has (torch's DCP).

No rank ever holds the whole state, and all of them write at once. A checkpoint is the folder `training.parts/<step>` of
a run. It is complete once torch has written its file `.metadata`, which comes last. Another number of ranks can read
it, one that is alone included, since torch finds the parts of every tensor.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from worldmodel.core.ranks import here
from worldmodel.training.runs import PARTS

_STEP: Final = "step"

Tensors = dict[str, Tensor]


def save(folder: Path, step: int, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write the checkpoint of `step`, and remove older ones. Every rank calls it.

    Raises:
        OSError: if a rank cannot write. Older checkpoints stay.
    """
    path = folder / PARTS / f"{step:09d}"
    if here().is_first:
        shutil.rmtree(path, ignore_errors=True)  # of a run that was killed while it wrote
    dist.barrier()
    tensors = {_STEP: torch.tensor(step), **_of_module(module), **_of_optimiser(optimiser)}
    with _as_usual_errors():
        state_dict_saver.save(tensors, checkpoint_id=path)
    if here().is_first:
        for other in (folder / PARTS).iterdir():
            if other != path:
                shutil.rmtree(other, ignore_errors=True)


def load(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Read the checkpoint at `path` into `module` and `optimiser`, which may be divided otherwise. Every rank calls it.

    Raises:
        OSError, RuntimeError, ValueError: for a checkpoint that is damaged, or of another model.
    """
    with _as_usual_errors():
        stored = FileSystemReader(path).read_metadata().state_dict_metadata
        for number, parameter in enumerate(_parameters(optimiser)):
            prefix = f"optimiser.{number}."
            for key, value in stored.items():
                if key.startswith(prefix) and isinstance(value, TensorStorageMetadata):
                    optimiser.state[parameter][key.removeprefix(prefix)] = _room(parameter, value)
        tensors = {**_of_module(module), **_of_optimiser(optimiser)}
        if set(stored) != {_STEP, *tensors}:
            raise ValueError(f"its tensors are others: {sorted(set(stored) ^ {_STEP, *tensors})[0]}")
        state_dict_loader.load(tensors, checkpoint_id=path)


def _parameters(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _of_module(module: nn.Module) -> Tensors:
    return {f"module.{name}": value for name, value in module.state_dict().items()}


def _of_optimiser(optimiser: torch.optim.Optimizer) -> Tensors:
    """What the optimiser has learned about its parameters. Rates and decays follow from the options and the step."""
    return {
        f"optimiser.{number}.{name}": value
        for number, parameter in enumerate(_parameters(optimiser))
        for name, value in optimiser.state.get(parameter, {}).items()
    }


def _room(parameter: nn.Parameter, stored: TensorStorageMetadata) -> Tensor:
    """A tensor to read into, divided as `parameter` is if it has as many numbers."""
    if stored.size == parameter.shape:
        return torch.zeros_like(parameter.detach())
    return torch.zeros(stored.size, dtype=stored.properties.dtype, device=parameter.device)


@contextmanager
def _as_usual_errors() -> Iterator[None]:
    """torch collects what failed on any rank in an exception of its own, which `except Exception` does not catch."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is .*initialized", category=UserWarning)
            yield
    except CheckpointException as error:
        failed, _ = next(iter(error.failures.values()))
        if isinstance(failed, OSError):
            raise type(failed)(*failed.args, failed.filename) from error
        raise RuntimeError(f"{type(failed).__name__}: {failed}") from error
