"""Tables on the console, alike in all tools of this package."""

from __future__ import annotations

from rich import box
from rich.table import Table

_OF_TEXT = ("becomes", "column", "unit", "what")


def table(title: str, *headings: str) -> Table:
    """An empty table: words to the left, numbers to the right."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in headings:
        made.add_column(heading, justify="left" if heading in _OF_TEXT else "right")
    return made
