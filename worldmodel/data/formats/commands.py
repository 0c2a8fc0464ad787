"""The commands `python -m worldmodel.data import FORMAT SOURCE STORE` and `export FORMAT STORE TARGET`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from worldmodel.cli.console import console, shown
from worldmodel.cli.progress import counting
from worldmodel.cli.tables import table
from worldmodel.data.formats.actions import ActionOptions
from worldmodel.data.formats.exporting import IMAGES, ExportOptions
from worldmodel.data.formats.images import FITS
from worldmodel.data.formats.importing import run_import, shortened
from worldmodel.data.formats.plan import ImportOptions, Plan, plan_import
from worldmodel.data.formats.registry import EXPORTS, OURS, export, open_source
from worldmodel.data.formats.source import Source
from worldmodel.data.inspection import bytes_on_disk
from worldmodel.data.store.files import require_folder
from worldmodel.data.store.layout import Layout, image_column
from worldmodel.data.store.reader import TrajectoryStore

_ROLES = ("action", "proprio", "state", "reward")


def import_store(format_name: str, path: Path, out: Path, options: ImportOptions, dry: bool, fill_missing: bool) -> int:
    """Read a data set into the store `out`. With `dry`, only print what would be written."""
    with open_source(format_name, path, fill_missing, options.rate_hz) as source:
        with counting("look") as progress:
            plan = plan_import(source, options, progress)
        _show(source, plan)
        if dry:
            console.print(f"nothing was written: without --dry-run, this goes to {shown(out)}")
            return 0
        with counting("import") as progress:
            written = run_import(source, plan, out, progress)
    console.print(
        f"{shown(out)}: {written.num_episodes} episodes, {written.num_rows} observations and {written.num_steps} steps "
        f"({bytes_on_disk(out) / 1e6:.1f} MB), as many as were read"
    )
    return 0


def export_store(format_name: str, path: Path, target: Path, options: ExportOptions) -> int:
    """Write the store at `path` in another format. Returns 130 if interrupted, and then `target` is absent."""
    require_folder(target)
    store = TrajectoryStore.open(path)
    try:
        with counting("export") as progress:
            export(format_name, store, target, options, progress)
    except KeyboardInterrupt:
        console.print(f"[yellow]interrupted[/]: nothing is at {shown(target)} yet; the same command begins anew")
        return 130
    size = f"{bytes_on_disk(target) / 1e6:.1f} MB"
    console.print(
        f"{shown(target)}: {store.num_episodes} episodes, {store.num_rows} rows ({size}); the last row of an episode "
        "has no action"
    )
    return 0


def _show(source: Source, plan: Plan) -> None:
    facts, spec = source.facts, plan.spec
    found = table(shown(f"{source.path}: {facts.format}"), "column", "numbers", "type", "becomes")
    becomes: dict[str, list[str]] = {}
    for name, camera in plan.cameras.items():
        becomes.setdefault(camera.column, []).append(f"camera {name}")
    for role in _ROLES:
        for part in getattr(plan.choice, role):
            becomes.setdefault(part.name, []).append(role)
    for name, feature in source.features.items():
        shape = " x ".join(map(str, feature.shape)) or "1"
        found.add_row(shown(name), shape, feature.dtype, ", ".join(becomes.get(name, ())))
    console.print(found)
    written = table("what is written", "column", "numbers", "type", "what")
    pictures = {image_column(n): f"{of.column}: {of.fit.describe(*of.picture)}" for n, of in plan.cameras.items()}
    for name, (dtype, row) in Layout(spec, bool(plan.choice.reward)).row_types.items():
        what = pictures.get(name) or ", ".join(map(str, getattr(plan.choice, name))) or "nothing"
        written.add_row(name, " x ".join(map(str, row)) or "1", str(dtype), shown(what))
    console.print(written)
    console.print(
        f"{len(plan.episodes)} episodes, {plan.num_rows} observations, {plan.num_steps} steps at "
        f"{1 / spec.control_step_s:g} per second ({plan.num_steps * spec.control_step_s / 3600:.2f} hours); "
        f"env {shown(spec.env)}"
    )
    console.print(f"rows: {facts.rows}; {plan.unused_actions} actions are left out")
    if plan.skipped:
        console.print(f"{len(plan.skipped)} episodes of less than two observations are left out")
    _show_action(plan)
    instruction = shortened(source.instruction(plan.episodes[0][0]))
    if instruction:
        console.print(f"instruction of the first episode: {shown(instruction)}")
    for note in plan.notes:
        console.print(f"[yellow]note[/]: {shown(note)}")


def _show_action(plan: Plan) -> None:
    spec = plan.spec.action
    made = table(f"action; bounds: {plan.told.bounds}", "", "from", "to", "rest", "kind", "what", narrow=True)
    for index, name in enumerate(spec.names):
        rest, rate, unit = spec.rest[index], spec.max_rate[index], spec.units[index]
        bounds = (f"{spec.low[index]:.4g}", f"{spec.high[index]:.4g}")
        kind = spec.kinds[index] if rate is None else f"{spec.kinds[index]}, {rate:g}/s at most"
        rests = rest if isinstance(rest, str) else f"{rest:g}"
        made.add_row(shown(f"{name} [{unit}]" if unit else name), *bounds, rests, kind, shown(plan.told.why[index]))
    console.print(made)
    console.print("rest: the command under which the robot stays as it is; --rest and --binary say otherwise")


def add_import(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `import` with `add(name, text, run, store=False)`."""

    def run(given: argparse.Namespace) -> int:
        control = ActionOptions(
            given.action_low, given.action_high, given.action_units, given.rest, given.binary, given.max_rate
        )
        options = ImportOptions(
            camera=given.camera,
            action=given.action,
            proprio=given.proprio,
            state=given.state,
            reward=given.reward,
            rate_hz=given.rate,
            size=given.size,
            fit=given.fit,
            env=given.env,
            control=control,
            skip_short=given.skip_short,
        )
        return import_store(given.format, given.source, given.store, options, given.dry_run, given.fill_missing)

    command = add("import", "read recordings of another format into a new store", run, store=False)
    command.add_argument("format", metavar="FORMAT", help=f"{', '.join(OURS)}, or one of a plug-in")
    command.add_argument("source", type=Path, metavar="SOURCE")
    command.add_argument("store", type=Path, metavar="STORE")
    command.add_argument("--dry-run", action="store_true", help="read, and say what would be written")
    command.add_argument("--skip-short", action="store_true", help="leave out episodes of less than two observations")
    text = "diffusion_policy: read missing chunks as zarr does, rather than refuse them"
    command.add_argument("--fill-missing", action="store_true", help=text)
    _add_columns(command)
    _add_robot(command)


def _add_columns(command: argparse.ArgumentParser) -> None:
    columns = command.add_argument_group("which columns; found out where there is one candidate; KEY[2:5] takes a part")
    text = "pictures of one camera or more; NAME=KEY calls a camera NAME, which is else the last part of KEY"
    columns.add_argument("--camera", metavar="KEY", nargs="+", help=text)
    columns.add_argument("--action", metavar="KEY", nargs="+")
    columns.add_argument("--proprio", metavar="KEY", nargs="+", help="what the robot feels, or none")
    columns.add_argument("--state", metavar="KEY", nargs="+", help="the simulator's, for evaluation only, or none")
    columns.add_argument("--reward", metavar="KEY", nargs=1, help="one number, or none")
    pictures = command.add_argument_group("pictures")
    text = "height and width, or one number for both, multiples of 4, for training of 8; else the source's, at most 224"
    pictures.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help=text)
    text = (
        "crop: cut the middle out; letterbox: add black borders; keep: the camera's own aspect ratio, its shorter side "
        "--size pixels long, both cut to multiples of 8"
    )
    pictures.add_argument("--fit", choices=FITS, default="crop", help=text)


def _add_robot(command: argparse.ArgumentParser) -> None:
    robot = command.add_argument_group(
        "what the source does not say; one value for each dimension of the action, or one"
    )
    robot.add_argument(
        "--rate", type=float, metavar="HZ", help="steps per second, where the source does not say; of videos, any"
    )
    robot.add_argument("--env", metavar="NAME")
    robot.add_argument("--action-low", type=float, nargs="+", metavar="X", help="else the smallest that was taken")
    robot.add_argument("--action-high", type=float, nargs="+", metavar="X", help="else the largest")
    robot.add_argument("--action-units", nargs="+", metavar="UNIT", help="for example m/s")
    text = "the command under which the robot stays as it is: zero, hold (the last command) or a number; else found out"
    robot.add_argument("--rest", nargs="+", metavar="RULE", help=text)
    text = (
        "dimensions that know their smallest and largest value only, as a gripper; without a name none; else found out"
    )
    robot.add_argument("--binary", nargs="*", metavar="NAME", help=text)
    text = "largest change from one command to the next, in units per second, or none"
    robot.add_argument("--max-rate", nargs="+", metavar="X", help=text)


def add_export(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `export` with `add(name, text, run, store=False)`."""

    def run(given: argparse.Namespace) -> int:
        options = ExportOptions(given.images, given.crf, given.task)
        return export_store(given.format, given.store, given.target, options)

    command = add("export", "write a store in another format", run, store=False)
    command.add_argument("format", metavar="FORMAT", choices=list(EXPORTS), help=", ".join(EXPORTS))
    command.add_argument("store", type=Path, metavar="STORE")
    command.add_argument("target", type=Path, metavar="TARGET")
    text = "H.264, small; or PNG in the Parquet files, which loses nothing"
    command.add_argument("--images", choices=IMAGES, default="video", help=text)
    command.add_argument("--crf", type=int, default=18, help="of video: 0 is best, 51 smallest (default 18)")
    command.add_argument(
        "--task",
        metavar="TEXT",
        help="what the robot does, in words, where the store does not say; else the environment's name",
    )
