"""Tools: `python -m worldmodel.data inspect|verify|view|recover|upgrade|pack|split|merge|import|export ...`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from worldmodel.cli.command import ending_in_one_line, fail
from worldmodel.cli.console import console, shown
from worldmodel.cli.programs import as_typed
from worldmodel.cli.progress import counting
from worldmodel.cli.tables import table
from worldmodel.core.errors import UserError
from worldmodel.core.files import replacing
from worldmodel.core.spec import CAMERA, CameraSpec
from worldmodel.data.formats.commands import add_export, add_import
from worldmodel.data.inspection import bytes_on_disk, contact_sheet, dimensions, oddities
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.data.store.recovery import recover
from worldmodel.data.store.rewriting import merge, pack, split, upgrade
from worldmodel.data.store.verification import verify
from worldmodel.data.viewing import frames_per_s, output_named, write_rerun, write_video

_MOST_SHOWN = 20


class _Parser(argparse.ArgumentParser):
    """An argument parser that refuses input in one line, as all commands do."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; see `{self.prog} --help`")


def inspect_store(path: Path, sheet: str | None) -> int:
    """Print a summary of the store. With `sheet`, write a contact sheet there."""
    picture = None if sheet is None else output_named(sheet, ".png", "sheet")
    store = TrajectoryStore.open(path)
    spec, size = store.spec, bytes_on_disk(store.path)
    plain = store.num_rows * sum(row.num_bytes for row in store.layout.row_types.values())
    hours, rate = store.num_steps * spec.control_step_s / 3600, 1 / spec.control_step_s
    lengths = np.diff(store.episode_ends, prepend=0) - 1
    shortest, longest = (lengths.min(), lengths.max()) if len(lengths) else (0, 0)
    steps = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
    console.print(shown(f"{store.name}: {spec.env} ({spec.simulator}), options {spec.options or 'none'}"))
    console.print(shown(f"recorded with {store.recording or 'no further options'}"))
    console.print(
        f"{store.num_episodes} episodes of {steps} steps; {store.num_steps} steps, {hours:.2f} hours "
        f"at {rate:g} steps per second"
    )
    where = f"in the cache ({shown(store.path)})" if store.is_remote else "on disk"
    smaller = f", {plain / size:.1f} times smaller than plain" if plain and not store.is_remote else ""
    checks = f"schema {store.layout.version}, {'with' if store.layout.has_checksums else 'without'} checksums"
    console.print(f"{size / 1e6:.1f} MB {where}{smaller}; {checks}")
    shapes = table("columns", "column", "shape", "type")
    for name, (dtype, row) in store.layout.row_types.items():
        shapes.add_row(name, str([store.num_rows, *row]), str(dtype))
    console.print(shapes)
    if not store.num_episodes:
        return 0
    values = table("values", "column", "name", "unit", "low", "mean", "std", "high")
    found = dimensions(store)
    for d in found:
        values.add_row(d.column, shown(d.name), shown(d.unit), *(f"{v:.4g}" for v in (d.low, d.mean, d.std, d.high)))
    console.print(values)
    for oddity in oddities(store, found):
        console.print(f"[yellow]odd[/]: {shown(oddity)}")
    if picture is not None:
        with replacing(picture) as file:
            Image.fromarray(contact_sheet(store)).save(file, format="PNG")
        console.print(f"contact sheet: {shown(picture)}")
    return 0


def verify_store(path: Path) -> int:
    """Read everything and print all damage. Returns 1 if there is any."""
    store = TrajectoryStore.open(path)
    with counting("verify") as progress:
        found = verify(store, progress)
    if not found:
        checks = "" if store.records is not None else " (schema 1: no checksums; damage within a chunk only)"
        console.print(
            f"{shown(store.name)}: {store.num_episodes} episodes, {store.num_rows} rows, all as recorded{checks}"
        )
        return 0
    damages = table(f"{shown(store.name)}: damaged", "episode", "column", "what")
    for damage in found[:_MOST_SHOWN]:
        damages.add_row(str(damage.episode), damage.column, shown(damage.what))
    console.print(damages)
    episodes = sorted({damage.episode for damage in found})
    more = f" (the first {_MOST_SHOWN} of {len(found)} findings are shown)" if len(found) > _MOST_SHOWN else ""
    console.print(f"{len(episodes)} of {store.num_episodes} episodes are damaged{more}; {shown(store.hint)}")
    return 1


def view_episode(path: Path, number: int, out: str | None, rerun: str | None) -> int:
    """Write an episode as a video to `out`, and for the Rerun viewer to `rerun`. By default, write a video here."""
    store = TrajectoryStore.open(path)
    if not 0 <= number < store.num_episodes:
        raise UserError(f"episode {number}: {store.name} has {store.num_episodes} episodes, the first is number 0")
    if out is None and rerun is None:
        out = f"episode_{number}.mp4"
    video = None if out is None else output_named(out, ".mp4", "out")
    recording = None if rerun is None else output_named(rerun, ".rrd", "rerun")
    episode = store.episode(number)
    # Rerun comes first, since it may not be installed.
    if recording is not None:
        write_rerun(episode, store.spec, recording)
        console.print(f"Rerun recording: {shown(recording)}  (rerun {shown(recording)})")
    if video is not None:
        write_video(episode, store.spec, video)
        rate = float(frames_per_s(store.spec))
        console.print(f"video: {shown(video)}  ({len(episode.action)} frames, {rate:g} per second)")
    return 0


def recover_store(path: Path) -> int:
    """Cut off an unfinished tail, and set damaged episodes aside."""
    with counting("recover") as progress:
        done = recover(path, progress)
    if done.set_aside is None:
        console.print(f"{shown(path)}: {done.kept} episodes, all whole; nothing had to be set aside")
    else:
        lost = ", ".join(map(str, done.lost[:_MOST_SHOWN])) + (" ..." if len(done.lost) > _MOST_SHOWN else "")
        console.print(
            f"{shown(path)}: {done.kept} episodes kept, {len(done.lost)} lost{f' ({lost})' if lost else ''}; "
            f"the store as it was: {shown(done.set_aside)}"
        )
    return 0


def upgrade_store(path: Path, out: Path, camera: str) -> int:
    """Copy a store of an older schema, with every frame, into one of the present schema."""
    store = TrajectoryStore.open(path)
    old = store.spec.only_camera
    spec = dataclasses.replace(store.spec, cameras=(CameraSpec(camera, old.height, old.width),))
    with counting("upgrade") as progress:
        upgraded = upgrade(store, out, spec, progress)
    console.print(
        f"{out}: {upgraded.num_episodes} episodes, {upgraded.num_rows} rows, as recorded; schema "
        f"{upgraded.layout.version} instead of {store.layout.version}"
    )
    return 0


def pack_store(path: Path, out: Path) -> int:
    """Rewrite a store into few large files."""
    store = TrajectoryStore.open(path)
    with counting("pack") as progress:
        packed = pack(store, out, progress)
    before, after = (sum(1 for file in place.rglob("*") if file.is_file()) for place in (store.path, out))
    console.print(
        f"{shown(out)}: {packed.num_episodes} episodes in {after} files ({bytes_on_disk(out) / 1e6:.1f} MB) "
        f"instead of {before} ({bytes_on_disk(store.path) / 1e6:.1f} MB)"
    )
    return 0


def split_store(path: Path, outs: list[Path], fractions: list[float], seed: int) -> int:
    """Divide episodes at random among new stores."""
    store = TrajectoryStore.open(path)
    with counting("split") as progress:
        written = split(store, outs, fractions, seed, progress)
    for part in written:
        console.print(f"{shown(part.path)}: {part.num_episodes} episodes")
    return 0


def merge_stores(paths: list[Path], out: Path, without_state: bool) -> int:
    """Copy all episodes of several stores into one."""
    stores = [TrajectoryStore.open(path) for path in paths]
    with counting("merge") as progress:
        merged = merge(stores, out, progress, without_state)
    console.print(f"{shown(out)}: {merged.num_episodes} episodes")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=as_typed("python -m worldmodel.data"), description=__doc__)
    metavar = "inspect|verify|view|recover|upgrade|pack|split|merge|import|export"
    commands = parser.add_subparsers(required=True, metavar=metavar)

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int], *, store: bool = True) -> _Parser:
        command: _Parser = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if store:
            command.add_argument("store", type=Path, metavar="STORE")
        return command

    text = "what is in it: episodes, hours, shapes, units, statistics"
    command = add("inspect", text, lambda given: inspect_store(given.store, given.sheet))
    command.add_argument("--sheet", metavar="PNG", help="also write a contact sheet of pictures")
    text = "check everything; names the episodes and columns that are damaged"
    add("verify", text, lambda given: verify_store(given.store))
    text = "one episode to look at: a video, or a recording for the Rerun viewer"
    command = add("view", text, lambda given: view_episode(given.store, given.episode, given.out, given.rerun))
    command.add_argument("--episode", type=int, default=0, metavar="N", help="its number; the first is 0")
    command.add_argument("--out", metavar="MP4", help="default, without --rerun: episode_N.mp4")
    command.add_argument("--rerun", metavar="RRD", help="also its numbers; needs the extra `view`")
    text = "cut off an unfinished tail, set damaged episodes aside"
    add("recover", text, lambda given: recover_store(given.store))
    text = "make a store of the present schema from an older one; no frame changes"
    command = add("upgrade", text, lambda given: upgrade_store(given.store, given.out, given.camera))
    command.add_argument("out", type=Path, metavar="NEW")
    command.add_argument("--camera", default=CAMERA, metavar="NAME", help="what its camera is called (default: camera)")
    text = "rewrite into few large files, for archives and object storage"
    command = add("pack", text, lambda given: pack_store(given.store, given.out))
    command.add_argument("out", type=Path, metavar="OUT")
    text = "divide its episodes at random among new stores"
    command = add("split", text, lambda given: split_store(given.store, given.outs, given.fractions, given.seed))
    command.add_argument("outs", type=Path, nargs="+", metavar="OUT")
    command.add_argument("--fractions", type=float, nargs="+", required=True, help="of the episodes, one for each OUT")
    command.add_argument("--seed", type=int, default=0)
    text = "all episodes of several stores, one after the other, in a new one"
    command = add("merge", text, lambda given: merge_stores(given.stores, given.out, given.without_state), store=False)
    command.add_argument("stores", type=Path, nargs="+", metavar="STORE")
    command.add_argument("out", type=Path, metavar="OUT")
    text = "leave out the simulator's states, which what a robot lived through does not have"
    command.add_argument("--without-state", action="store_true", help=text)
    add_import(add)
    add_export(add)
    return parser


def main(arguments: list[str]) -> int:
    """Run one command. Exit codes are 0 (success), 1 (damaged or unwritable store), 2 (invalid input), 130 (Ctrl-C)."""
    with ending_in_one_line("what was finished is kept; the same command goes on from there"):
        given = _parser().parse_args(arguments)
        code: int = given.run(given)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
