"""Where commands print."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from worldmodel.core.text import printable, without_secrets

console = Console(highlight=False, soft_wrap=True)


def shown(text: object) -> str:
    """Text that others wrote, for `console.print` and tables: no control sequence, no markup, no password."""
    return escape(printable(without_secrets(text)))
