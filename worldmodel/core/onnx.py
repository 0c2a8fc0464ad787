"""What the users of the ONNX format share. Its libraries are the extra `onnx`, and imported when they are needed."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from worldmodel.core.errors import UserError, how_to_install

OPSET: Final = 18  # the first that torch's exporter writes natively; runtimes since early 2023 read it
_NEEDED: Final = ("onnx", "onnxruntime", "onnxscript")  # torch writes with the first and the last


def require_onnx() -> None:
    """Raises UserError, with the command that helps, if a library is not installed."""
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"ONNX files need {name}, which is not installed: {how_to_install('onnx')}")


@contextmanager
def quiet_export() -> Iterator[None]:
    """A context without what torch's exporter tells of itself, such as libraries that this project does not use."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
