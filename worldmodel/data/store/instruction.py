"""The instruction of an episode, as UTF-8 of a fixed size that is padded with zeros."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.errors import UserError

INSTRUCTION_BYTES: Final = 512


def encode_instruction(text: object) -> NDArray[np.uint8]:
    """An instruction as uint8 `[INSTRUCTION_BYTES]`.

    Raises:
        UserError: for anything but text of at most `INSTRUCTION_BYTES` bytes of UTF-8 without a NUL character.
    """
    expected = f"expected text of at most {INSTRUCTION_BYTES} bytes of UTF-8"
    if not isinstance(text, str):
        raise UserError(f"instruction is {type(text).__name__}: {expected}")
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"instruction has a character that UTF-8 does not know: {expected}") from error
    if len(content) > INSTRUCTION_BYTES:
        raise UserError(f"instruction has {len(content)} bytes: {expected}")
    if b"\0" in content:
        raise UserError(f"instruction has a NUL character: {expected}")
    row = np.zeros(INSTRUCTION_BYTES, np.uint8)
    row[: len(content)] = np.frombuffer(content, np.uint8)
    return row


def decode_instruction(row: NDArray[Any]) -> str:
    """Inverse of `encode_instruction`. Raises ValueError for bytes that it cannot have returned."""
    content = row.tobytes().rstrip(b"\0")
    if b"\0" in content:
        raise ValueError("text behind the end of the text")
    return content.decode()
