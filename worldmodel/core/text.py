"""Untrusted text, before it is printed or stored: names, units, instructions, addresses, messages of servers."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_MOST_SHOWN: Final = 1_000  # characters: a recording may call its environment anything
# Escape sequences of terminals (ECMA-48): CSI and its parameters, OSC and others up to their end, two characters.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# Controls, formats (they turn the direction of writing, or take no room), halves of characters, private use.
_UNSEEN = ("Cc", "Cf", "Cs", "Co")
# Name and password before the host; a password may hold any @ but no slash.
_SECRET = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]+:/{1,2})[^/\s?#'\"]*@")
_QUERY = re.compile(r"(?P<address>\b[A-Za-z][A-Za-z0-9+.-]*://[^\s?#'\"]*)[?#][^\s'\")]*")


def printable(text: object) -> str:
    """`text` in one line without anything that a terminal acts upon; of a long one, how it begins and ends."""
    whole = str(text)
    if len(whole) > 2 * _MOST_SHOWN:  # where what is not shown is a part of it
        whole = f"{whole[:_MOST_SHOWN]} {whole[-_MOST_SHOWN:]}"
    plain = " ".join(_SEQUENCE.sub("", whole).split())
    plain = "".join(letter for letter in plain if unicodedata.category(letter) not in _UNSEEN)
    half = _MOST_SHOWN // 2
    return plain if len(plain) <= _MOST_SHOWN else f"{plain[:half]} ... {plain[-half:]}"


def without_secrets(text: object) -> str:
    """`text` with `***` in place of names and passwords in addresses, and of what follows a `?` or `#` there.

    `https://me:secret@host/data.zarr?key=1` becomes `https://***@host/data.zarr?***`. Anything else stays.
    """
    return _QUERY.sub(r"\g<address>?***", _SECRET.sub(r"\g<scheme>***@", str(text)))
