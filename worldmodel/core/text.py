"""Cleans untrusted text before it is printed or stored, such as names, instructions, addresses and server messages."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_MOST_SHOWN: Final = 1_000  # characters; names in a recording may have any length
# Terminal escape sequences (ECMA-48), which are CSI with parameters, OSC and others with their text, and two-character.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# Unicode categories: controls, formats (such as changes of the writing direction), half surrogate pairs, private use.
_UNSEEN = ("Cc", "Cf", "Cs", "Co")
# Name and password before the host. A password may contain @ but no slash.
_SECRET = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]+:/{1,2})[^/\s?#'\"]*@")
_QUERY = re.compile(r"(?P<address>\b[A-Za-z][A-Za-z0-9+.-]*://[^\s?#'\"]*)[?#][^\s'\")]*")


def printable(text: object) -> str:
    """`text` in one line without anything that controls a terminal. A long text is cut in the middle."""
    whole = str(text)
    if len(whole) > 2 * _MOST_SHOWN:  # saves work on the part that is not shown
        whole = f"{whole[:_MOST_SHOWN]} {whole[-_MOST_SHOWN:]}"
    plain = " ".join(_SEQUENCE.sub("", whole).split())
    plain = "".join(letter for letter in plain if unicodedata.category(letter) not in _UNSEEN)
    half = _MOST_SHOWN // 2
    return plain if len(plain) <= _MOST_SHOWN else f"{plain[:half]} ... {plain[-half:]}"


def without_secrets(text: object) -> str:
    """`text` with `***` instead of names and passwords in addresses, and of everything after a `?` or `#` there.

    `https://me:secret@host/data.zarr?key=1` becomes `https://***@host/data.zarr?***`. Anything else stays.
    """
    return _QUERY.sub(r"\g<address>?***", _SECRET.sub(r"\g<scheme>***@", str(text)))
