"""Fuzzes the code that decodes untrusted files: `python -m benchmarks.store.fuzzing [target ...]`.

It needs the extra `benchmarks` for atheris, which is libFuzzer for Python. `benchmarks.store.durability` fuzzes with
hypothesis, which knows the parts of a description or a chunk. Atheris knows nothing, but finds inputs that reach new
code.
Targets:

    descriptions   each zarr.json of a small store, with any checksum recomputed
    chunks         each chunk file of this store and of its packed copy
    goals          PNG and JPEG files for `goal=`
    pictures       PNG and JPEG images of recordings to be imported
    parquet        Parquet files of recordings to be imported, read in another process without coverage

For every input, the result must be the recorded data or a `UserError`, within 20 s and 2 GB. Options: `runs=10000`
inputs for each target, `seed=1`. Counts are printed. The exit code is 1 if anything else happens, and the inputs that
cause it are kept in `runs/fuzzing/`.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.table import Table

from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError, choices_message, how_to_install

MOST_SECONDS, MOST_MB = 20, 2048
_FINDINGS = Path("runs/fuzzing")
_INSTRUMENTED = ("worldmodel.data", "planning.goal_image", "PIL")
_IMPORTED = (
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "planning.goal_image",
    "worldmodel.data.formats.images",
    "worldmodel.data.formats.parquet",
    "worldmodel.data.store.verification",
)

Target = Callable[[bytes], None]
"""Takes one input; raises anything but UserError only where something is wrong."""


def descriptions(folder: Path, corpus: Path) -> Target:
    """The first byte of an input chooses the description, and the rest is its content."""
    from worldmodel.data.store.integrity import description_checksum

    read = _reading(folder, corpus, lambda file: file.name == "zarr.json")

    def fitted(content: bytes) -> bytes | None:
        try:
            values = json.loads(content)
            values["attributes"]["checksum"] = description_checksum(values["attributes"])
            return json.dumps(values).encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def one_input(data: bytes) -> None:
        content = fitted(data[1:])
        assert read(data[:1], data[1:] if content is None else content, content is not None), "silently wrong"

    return one_input


def chunks(folder: Path, corpus: Path) -> Target:
    """The first byte of an input chooses the chunk file, and the rest is its content."""
    read = _reading(folder, corpus, lambda file: file.name != "zarr.json")

    def one_input(data: bytes) -> None:
        assert read(data[:1], data[1:], False), "silently wrong"

    return one_input


def _reading(folder: Path, corpus: Path, wanted: Callable[[Path], bool]) -> Callable[[bytes, bytes, bool], bool]:
    """A function that says whether a small store, or its packed copy, reads as recorded with one `wanted` file changed.

    Its arguments are the number of the file (one byte), its content, and whether any accepted description is correct.
    """
    from benchmarks.store.damage import files_of, instead, quiet, read_everything
    from benchmarks.store.faults import make_store
    from worldmodel.data import TrajectoryStore
    from worldmodel.data.store.rewriting import pack

    make_store(folder / "data.zarr", 3)
    packed = pack(TrajectoryStore.open(folder / "data.zarr"), folder / "packed.zarr", quiet).path
    files = [(path, file) for path in (folder / "data.zarr", packed) for file in files_of(path) if wanted(file)]
    for number, (_, file) in enumerate(files):
        (corpus / str(number)).write_bytes(bytes([number]) + file.read_bytes())

    def read(which: bytes, content: bytes, any_description: bool) -> bool:
        path, file = files[int.from_bytes(which, "big") % len(files)]
        with instead(file, content):
            return read_everything(path, any_description)

    return read


def goals(folder: Path, corpus: Path) -> Target:
    """An input is the file."""
    from planning.goal_image import read_goal

    _write_pictures(corpus)

    def one_input(data: bytes) -> None:
        (folder / "goal.png").write_bytes(data)
        goal = read_goal(folder / "goal.png", 64)
        assert goal.pixels.shape == (64, 64, 3) and goal.pixels.dtype == np.uint8, "not a picture"

    return one_input


def pictures(folder: Path, corpus: Path) -> Target:
    """An input is the encoded image."""
    from worldmodel.data.formats.images import decode_picture

    _write_pictures(corpus)

    def one_input(data: bytes) -> None:
        picture = decode_picture(data, "camera of row 0")
        assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8, "not a picture"

    return one_input


def parquet(folder: Path, corpus: Path) -> Target:
    """An input is the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from worldmodel.data.formats.parquet import ParquetReader

    coded = pa.array([{"bytes": b"x", "path": None}] * 8, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns = {"episode_index": np.arange(8) // 4, "action": [[0.5, 1.0]] * 8, "task": ["push"] * 8, "top": coded}
    for compression in ("snappy", "zstd", "none"):
        pq.write_table(pa.table(columns), corpus / f"{compression}.parquet", compression=compression)
    reader = ParquetReader()

    def one_input(data: bytes) -> None:
        (folder / "file.parquet").write_bytes(data)
        file = reader.open(folder / "file.parquet")
        assert {len(values) for values in file.read(["episode_index", "action"]).values()} == {file.num_rows}
        assert len(file.texts("task")) == len(list(file.pictures("top"))) == file.num_rows

    return one_input


def _write_pictures(corpus: Path) -> None:
    from PIL import Image  # imported here, so that it is instrumented

    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    pixels[..., 3] = 255
    for mode, channels in (("RGB", [0, 1, 2]), ("RGBA", [0, 1, 2, 3]), ("L", 0)):
        for kind in ("PNG", "JPEG"):
            if (mode, kind) != ("RGBA", "JPEG"):
                content = io.BytesIO()
                Image.fromarray(np.ascontiguousarray(pixels[..., channels])).save(content, kind)
                (corpus / f"{mode}.{kind}").write_bytes(content.getvalue())


TARGETS: dict[str, Callable[[Path, Path], Target]] = {
    "descriptions": descriptions,
    "chunks": chunks,
    "goals": goals,
    "pictures": pictures,
    "parquet": parquet,
}


def fuzz(name: str, runs: int, seed: int) -> None:
    """Fuzz one target. It never returns, because libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=list(_INSTRUMENTED)):
        for module in _IMPORTED:
            importlib.import_module(module)
    folder = Path(os.environ["FUZZING_FOLDER"])
    corpus = folder / "corpus"
    corpus.mkdir()
    target = TARGETS[name](folder, corpus)
    answers = {"accepted": 0, "refused": 0}

    def one_input(data: bytes) -> None:
        try:
            target(data)
            answers["accepted"] += 1
        except UserError as error:
            assert "\n" not in str(error), f"a message of several lines: {error}"
            answers["refused"] += 1
        (folder / "answers.json").write_text(json.dumps(answers))

    limits = [
        f"-timeout={MOST_SECONDS}",
        f"-rss_limit_mb={MOST_MB}",
        "-max_len=65536",
        "-len_control=0",  # otherwise it tries only short inputs for a long time
        f"-artifact_prefix={_FINDINGS}/{name}-",
    ]
    atheris.Setup([sys.argv[0], f"-runs={runs}", f"-seed={seed}", *limits, str(corpus)], one_input)
    atheris.Fuzz()


def report(names: list[str], runs: int, seed: int) -> int:
    """Fuzz each target in a separate process and print the table. Returns the number of targets with failures."""
    table = Table("target", "inputs", "read", "refused", "branches", "most MB", "s", "wrong")
    wrong = 0
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                "-m",
                "benchmarks.store.fuzzing",
                f"runs={runs}",
                f"seed={seed}",
                f"--here={name}",
            ]
            environment = {**os.environ, "FUZZING_FOLDER": folder}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
            counted = Path(folder) / "answers.json"
            answers = json.loads(counted.read_text()) if counted.exists() else {"accepted": 0, "refused": 0}
        found = dict(re.findall(r"\b(cov|rss): (\d+)", done.stderr))
        if done.returncode:
            wrong += 1
            console.print(done.stderr[-3000:], markup=False)
        answered = [str(answers["accepted"] + answers["refused"]), str(answers["accepted"]), str(answers["refused"])]
        seconds = f"{time.monotonic() - began:.0f}"
        table.add_row(
            name, *answered, found.get("cov", "?"), found.get("rss", "?"), seconds, str(int(done.returncode != 0))
        )
    console.print(table)
    return wrong


def main(arguments: list[str]) -> int:
    """Run the command. Returns the exit code."""
    options, names, here = {"runs": 10_000, "seed": 1}, [], ""
    for argument in arguments:
        name, is_option, value = argument.partition("=")
        if name == "--here":
            here = value
        elif is_option and name in options and value.isdigit():
            options[name] = int(value)
        elif argument in TARGETS:
            names.append(argument)
        else:
            raise UserError(choices_message("target or option", argument, [*TARGETS, *(f"{o}=N" for o in options)]))
    _FINDINGS.mkdir(parents=True, exist_ok=True)
    if here:
        fuzz(here, options["runs"], options["seed"])
    try:
        import atheris  # noqa: F401
    except ImportError as error:
        raise UserError(f"atheris is not installed: {how_to_install('benchmarks')}") from error
    return int(report(names or list(TARGETS), options["runs"], options["seed"]) > 0)


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except UserError as error:
        fail(str(error))
