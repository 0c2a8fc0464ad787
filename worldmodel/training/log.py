"""The log of a training, as lines of JSON and for TensorBoard."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from torch.utils.tensorboard import SummaryWriter

from worldmodel.core.files import naming, replacing


class Log(Protocol):
    """The log of a training."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Note the `values` of `step`."""

    def close(self) -> None:
        """Finish writing."""


class NoLog:
    """The log of a rank that leaves it to the first one."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """See `Log.write`."""

    def close(self) -> None:
        """See `Log.close`."""


class JsonlLog:
    """Writes one JSON object per line, and the same numbers to TensorBoard."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        self._path = folder / "log.jsonl"
        kept = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] < resume_step:
                        kept.append(line)
                except (json.JSONDecodeError, KeyError):
                    continue  # a kill cut this line short
        with replacing(self._path) as file:
            file.write("".join(line + "\n" for line in kept).encode())
        self._board_path = folder / "tensorboard"
        with naming(self._board_path):
            self._board = SummaryWriter(str(self._board_path), purge_step=resume_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append the `values` of `step`. Numbers that are not finite do not exist in JSON and become null."""
        rounded = {k: round(v, 6) if math.isfinite(v) else None for k, v in values.items()}
        with naming(self._path), self._path.open("a") as file:
            file.write(json.dumps({"step": step, **rounded}) + "\n")
        with naming(self._board_path):
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        with naming(self._board_path):
            self._board.close()


@contextmanager
def told_once() -> Iterator[None]:
    """A context that stops Python from printing errors of TensorBoard's writer thread, which are raised here anyway."""
    show = threading.excepthook
    threading.excepthook = lambda error: None if isinstance(error.exc_value, OSError) else show(error)
    try:
        yield
    finally:
        threading.excepthook = show
