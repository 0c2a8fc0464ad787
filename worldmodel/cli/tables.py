"""Tables on the console, in one style for all commands."""

from __future__ import annotations

from rich import box
from rich.table import Table

__all__ = ["Table", "table"]

_OF_TEXT = ("", "becomes", "column", "kind", "rest", "unit", "what")


def table(title: str, *headings: str, narrow: bool = False) -> Table:
    """An empty table, with words aligned left and numbers right. A column without a heading names the rows.

    With `narrow`, columns have a space only on their right.
    """
    made = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0) if narrow else (0, 1, 0, 1)
    )
    for heading in headings:
        made.add_column(heading, justify="left" if heading in _OF_TEXT else "right", no_wrap=heading == "")
    return made
