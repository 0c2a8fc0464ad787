"""`python -m worldmodel.data inspect|verify|recover STORE`: what is in a recording, and whether it is whole."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image
from rich import box
from rich.table import Table

from configs.command import UserError, console, fail, output_file
from worldmodel.data.inspection import bytes_on_disk, contact_sheet, dimensions
from worldmodel.data.progress import counting
from worldmodel.data.recovery import recover
from worldmodel.data.store import TrajectoryStore, row_types
from worldmodel.data.verification import verify

_MOST_SHOWN = 20


class _Parser(argparse.ArgumentParser):
    """Argparse, with our one line for what it cannot use."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; see `{self.prog} --help`")


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("column", "unit", "what") else "right")
    return table


def inspect_store(path: Path, sheet: str | None) -> int:
    """Print what is in the store; with `sheet`, write a contact sheet there."""
    picture = None if sheet is None else output_file(sheet, "sheet")
    store = TrajectoryStore.open(path)
    spec, size = store.spec, bytes_on_disk(path)
    plain = store.num_rows * sum(row.num_bytes for row in row_types(spec).values())
    hours, rate = store.num_steps * spec.control_step_s / 3600, 1 / spec.control_step_s
    lengths = np.diff(store.episode_ends, prepend=0) - 1
    shortest, longest = (lengths.min(), lengths.max()) if len(lengths) else (0, 0)
    console.print(f"{path}: {spec.env} ({spec.simulator}), options {spec.options or 'none'}")
    console.print(f"recorded with {store.recording or 'no further options'}")
    console.print(
        f"{store.num_episodes} episodes of {shortest} to {longest} steps; {store.num_steps} steps, {hours:.2f} hours "
        f"at {rate:g} steps per second"
    )
    smaller = f", {plain / size:.1f} times smaller than plain" if plain else ""
    checks = "with checksums" if store.records is not None else "of schema 1, without checksums"
    console.print(f"{size / 1e6:.1f} MB on disk{smaller}; {checks}")
    shapes = _table("columns", "column", "shape", "type")
    for name, (dtype, row) in row_types(spec).items():
        shapes.add_row(name, str([store.num_rows, *row]), str(dtype))
    console.print(shapes)
    if not store.num_episodes:
        return 0
    values = _table("values", "column", "index", "unit", "low", "mean", "std", "high")
    for d in dimensions(store):
        values.add_row(d.column, str(d.index), d.unit, *(f"{v:.4g}" for v in (d.low, d.mean, d.std, d.high)))
    console.print(values)
    if picture is not None:
        Image.fromarray(contact_sheet(store)).save(picture)
        console.print(f"contact sheet: {picture}")
    return 0


def verify_store(path: Path) -> int:
    """Read everything and print what is damaged; 1 if anything is."""
    store = TrajectoryStore.open(path)
    with counting("verify") as progress:
        found = verify(store, progress)
    if not found:
        checks = "" if store.records is not None else " (schema 1: no checksums; damage within a chunk only)"
        console.print(f"{path}: {store.num_episodes} episodes, {store.num_rows} rows, all as recorded{checks}")
        return 0
    table = _table(f"{path}: damaged", "episode", "column", "what")
    for damage in found[:_MOST_SHOWN]:
        table.add_row(str(damage.episode), damage.column, damage.what)
    console.print(table)
    episodes = sorted({damage.episode for damage in found})
    more = f" (the first {_MOST_SHOWN} of {len(found)} findings are shown)" if len(found) > _MOST_SHOWN else ""
    console.print(
        f"{len(episodes)} of {store.num_episodes} episodes are damaged{more}; "
        f"`python -m worldmodel.data recover {path}` keeps the others"
    )
    return 1


def recover_store(path: Path) -> int:
    """Cut off an unfinished tail, set damaged episodes aside."""
    with counting("recover") as progress:
        done = recover(path, progress)
    if done.set_aside is None:
        console.print(f"{path}: {done.kept} episodes, all whole; nothing had to be set aside")
    else:
        lost = ", ".join(map(str, done.lost[:_MOST_SHOWN])) + (" ..." if len(done.lost) > _MOST_SHOWN else "")
        console.print(
            f"{path}: {done.kept} episodes kept, {len(done.lost)} lost{f' ({lost})' if lost else ''}; "
            f"the store as it was: {done.set_aside}"
        )
    return 0


def main(arguments: list[str]) -> int:
    """Exit codes: 0 all is well, 1 the store is damaged, 2 the input cannot be used, 130 interrupted."""
    parser = _Parser(prog="python -m worldmodel.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="inspect|verify|recover")
    for name, text in (
        ("inspect", "what is in it: episodes, hours, shapes, units, statistics"),
        ("verify", "every checksum; names the episodes and columns that are damaged"),
        ("recover", "cut off an unfinished tail, set damaged episodes aside"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("store", type=Path, metavar="STORE")
        if name == "inspect":
            command.add_argument("--sheet", metavar="PNG", help="also write a contact sheet of pictures")
    given = parser.parse_args(arguments)
    try:
        if given.command == "inspect":
            return inspect_store(given.store, given.sheet)
        return {"verify": verify_store, "recover": recover_store}[given.command](given.store)
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        console.print("[yellow]interrupted[/]: the same command begins again")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
