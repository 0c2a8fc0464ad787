"""Checkpoints in parts: of a training whose weights are divided, every rank writes what it has (torch's DCP).

To write a checkpoint, no rank gathers the whole state, and all of them write at once. A checkpoint is the folder
`training.parts/<step>` of a run. It is complete once torch has written its file `.metadata`, which comes last. Another
number of ranks can read it, one that is alone included, since torch finds the parts of every tensor.
"""

from __future__ import annotations

import io
import pickle
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from worldmodel.core.files import naming
from worldmodel.core.ranks import here
from worldmodel.training.collectives import on_any
from worldmodel.training.parallel import parameters_of
from worldmodel.training.runs import COMPLETE, PARTS, newest_in_parts

# What torch's metadata consists of, beside types of numbers. It is a pickle, which could name anything.
_METADATA: Final = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    *(("pathlib", name) for name in ("PosixPath", "WindowsPath")),
    *(("pathlib._local", name) for name in ("PosixPath", "WindowsPath")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "ChunkStorageMetadata",
            "TensorProperties", "_MEM_FORMAT_ENCODING",
        )
    ),
}  # fmt: skip

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
    with naming(path), _as_usual_errors():
        state_dict_saver.save({**_of_module(module), **_of_optimiser(optimiser)}, checkpoint_id=path)
    (is_lost,) = on_any(newest_in_parts(folder) != path)
    if is_lost:
        raise OSError(f"{path} is not seen by all ranks: expected a folder that all machines share")
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
        reader = _PlainReader(path)
        stored = reader.read_metadata().state_dict_metadata
        for number, parameter in enumerate(parameters_of(optimiser)):
            prefix = f"optimiser.{number}."
            for key, value in stored.items():
                if key.startswith(prefix) and isinstance(value, TensorStorageMetadata):
                    optimiser.state[parameter][key.removeprefix(prefix)] = _room(parameter, value)
        tensors = {**_of_module(module), **_of_optimiser(optimiser)}
        if set(stored) != set(tensors):
            raise ValueError(f"it has other tensors: {sorted(set(stored) ^ set(tensors))[0]}")
        state_dict_loader.load(tensors, storage_reader=reader)


class _PlainMetadata(pickle.Unpickler):
    """Reads a pickle that consists of torch's metadata, and refuses anything else before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module == "torch" or (module, name) in _METADATA else None
        if (module, name) in _METADATA or isinstance(found, torch.dtype):
            return found
        raise pickle.UnpicklingError(f"it names {module}.{name}")


class _PlainReader(FileSystemReader):
    """torch's reader, with metadata that cannot run code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        content = (Path(self.path) / COMPLETE).read_bytes()
        try:
            found = _PlainMetadata(io.BytesIO(content)).load()
            if not isinstance(found, Metadata):
                raise ValueError(f"it is a {type(found).__name__}")
            found.storage_meta = found.storage_meta or StorageMeta()
            found.storage_meta.load_id = self.load_id
        except Exception as error:  # damage can name anything
            raise ValueError(f"{COMPLETE} is damaged: {error}") from error
        return found


def _of_module(module: nn.Module) -> Tensors:
    return {f"module.{name}": value for name, value in module.state_dict().items()}


def _of_optimiser(optimiser: torch.optim.Optimizer) -> Tensors:
    """What the optimiser has learned about its parameters. Rates and decays follow from the options and the step."""
    return {
        f"optimiser.{number}.{name}": value
        for number, parameter in enumerate(parameters_of(optimiser))
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
        if isinstance(failed, MemoryError) or not isinstance(failed, Exception):
            raise failed from error
        if isinstance(failed, OSError):
            raise type(failed)(*failed.args, failed.filename) from error
        raise RuntimeError(f"{type(failed).__name__}: {failed}") from error
