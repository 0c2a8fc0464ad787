"""Damages the files of a trajectory store. It flips bytes, cuts or removes files, and invents metadata and chunks.

In all cases, reading must return the recorded data or raise `StoreError` (`UserError` for a description that makes no
sense), and need little time and memory. `verify` must report data that cannot be read. It may also report damage that
does not affect reading.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.store.faults import SPEC, Tally, make_store, same, snapshot, toy_episode
from worldmodel.core.errors import UserError
from worldmodel.data import TrajectoryStore
from worldmodel.data.store.integrity import description_checksum
from worldmodel.data.store.recovery import recover
from worldmodel.data.store.rewriting import pack
from worldmodel.data.store.verification import verify

MOST_SECONDS = 20
MOST_EXTRA_BYTES = 2**30
NUM_EPISODES = 3


def quiet(done: int, total: int) -> None:
    pass


@contextlib.contextmanager
def toy_store(packed: bool = False) -> Iterator[Path]:
    """A context with a small store, which is removed at the end."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "data.zarr"
        make_store(path, NUM_EPISODES)
        if packed:
            path = pack(TrajectoryStore.open(path), Path(name) / "packed.zarr", quiet).path
        yield path


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Raise TimeoutError after `MOST_SECONDS`, and MemoryError beyond `MOST_EXTRA_BYTES` more than now."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"no answer after {MOST_SECONDS} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, give_up)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_EXTRA_BYTES, hard))
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def read_everything(path: Path, any_description: bool = False) -> bool:
    """Whether everything reads as it was recorded. Raises UserError if something cannot be read."""
    store = TrajectoryStore.open(path)
    if not any_description and (store.spec != SPEC or store.recording):
        return False
    return store.num_episodes == NUM_EPISODES and all(
        same(store.episode(i), toy_episode(i)) for i in range(NUM_EPISODES)
    )


def check_damage(tally: Tally, path: Path, case: str, any_description: bool = False) -> None:
    """Read a store that may be damaged, and verify it.

    With `any_description`, the description was changed together with its checksum, so any readable content is correct.
    """
    tally.add("inputs")
    error: UserError | None = None
    named = equal = False
    try:
        with limits():
            try:
                equal = read_everything(path, any_description)
            except UserError as raised:
                error = raised
            try:
                named = equal or bool(verify(TrajectoryStore.open(path), quiet))
            except UserError:
                named = True
    except TimeoutError:
        tally.expect(False, "hangs", case)
    except MemoryError:
        tally.expect(False, "too much memory", case)
    except Exception as raised:
        tally.expect(False, "crashes of another type", f"{case}: {type(raised).__name__}: {raised}")
    else:
        tally.add("read as recorded" if equal else "typed errors" if error else "wrong")
        tally.expect(equal or error is not None, "silently wrong reads", case)
        tally.expect(named, "damage that verify does not name", case)
        tally.expect("\n" not in str(error), "messages of several lines", f"{case}: {error}")
    for what in ("hangs", "too much memory", "crashes of another type"):
        tally.counts[f"{what}!"] += 0  # so that the table shows it


def check_recovered(tally: Tally, path: Path, case: str) -> None:
    """Recover a copy of a store that may be damaged. It must keep only intact episodes, or change nothing."""
    with tempfile.TemporaryDirectory() as name:
        copied = Path(shutil.copytree(path, Path(name) / "data.zarr"))
        before = snapshot(copied)
        tally.add("recoveries")
        try:
            recover(copied, quiet)
        except UserError:
            tally.expect(snapshot(copied) == before, "recoveries that gave up half-way", case)
            return
        except Exception as raised:
            tally.expect(False, "crashes of another type", f"recovery, {case}: {type(raised).__name__}: {raised}")
            return
        store = TrajectoryStore.open(copied)
        seeds = store.episode_seeds.tolist()
        kept = all(same(store.episode(i), toy_episode(seed)) for i, seed in enumerate(seeds))
        tally.expect(kept and seeds == sorted(set(seeds)), "wrong episodes after a recovery", f"{case}: {seeds}")
        tally.expect(not verify(store, quiet), "damaged stores after a recovery", case)


@contextlib.contextmanager
def instead(file: Path, content: bytes | None) -> Iterator[None]:
    """A context in which a file has another content, or does not exist."""
    original = file.read_bytes()
    try:
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        yield
    finally:
        file.write_bytes(original)


def files_of(path: Path) -> list[Path]:
    """All files of a store, in a fixed order."""
    return sorted(p for p in path.rglob("*") if p.is_file())


# --- corruption ------------------------------------------------------------------------------------------------------


def flipped_bytes(step: int = 1, first: int = 0, packed: bool = False) -> Tally:
    """Change every `step`-th byte of all files, one at a time, in one to eight of its bits."""
    tally = Tally(f"bytes flipped{', packed store' if packed else ''}")
    rng = np.random.default_rng(first)
    with toy_store(packed) as path:
        places = [(file, i) for file in files_of(path) for i in range(file.stat().st_size)]
        for number, (file, position) in enumerate(places[first::step]):
            mask = int(rng.choice([1 << rng.integers(8), rng.integers(1, 256), 255]))
            content = bytearray(file.read_bytes())
            content[position] ^= mask
            with instead(file, bytes(content)):
                check_damage(tally, path, f"{file.relative_to(path)}[{position}] ^ {mask}")
                # Recovery takes longer than reading, so it is tried mainly on metadata, where failures are likely.
                if file.name == "zarr.json" or number % 25 == 0:
                    check_recovered(tally, path, f"{file.relative_to(path)}[{position}] ^ {mask}")
    return tally


def cut_and_lost_files(step: int = 1, packed: bool = False) -> Tally:
    """Cut every file to nothing, to half and by one byte, remove it, and replace it by the previous one in its folder.

    Only every `step`-th of these cases is tried.
    """
    tally = Tally(f"files cut short, lost or replaced{', packed store' if packed else ''}")
    with toy_store(packed) as path:
        cases: list[tuple[Path, str, bytes | None]] = []
        for one, other in itertools.pairwise(files_of(path)):
            if one.parent == other.parent and one.name != "zarr.json" != other.name:
                cases.append((other, f"replaced by {one.name}", one.read_bytes()))
        for file in files_of(path):
            content = file.read_bytes()
            shorter = [("cut to 0", b""), ("cut to half", content[: len(content) // 2]), ("cut by 1", content[:-1])]
            cases += [(file, what, left) for what, left in (*shorter, ("lost", None))]
        for file, what, left in cases[::step]:
            with instead(file, left):
                check_damage(tally, path, f"{file.relative_to(path)} {what}")
                check_recovered(tally, path, f"{file.relative_to(path)} {what}")
    return tally


# --- fuzzing ---------------------------------------------------------------------------------------------------------

_NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 16, 255, 2**31, 2**32, 10**12, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308])
_TYPES = ["uint8", "int8", "float16", "object", "string", "variable_length_utf8"]
_NAMES = ["pickle", "vlen-utf8", "numcodecs.pickle", "blosc", "gzip", "zstd", "bytes", "crc32c", "sharding_indexed"]
_OTHERS = ["", "regular", "default", "v2", "/", ".", "big", "array", "group", "trajectory-store", "\x00", "../../data"]
_TEXTS = st.sampled_from(_TYPES + _NAMES + _OTHERS)
_LEAVES = st.none() | st.booleans() | _NUMBERS | st.integers() | st.floats() | _TEXTS | st.text(max_size=8)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS | st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_CODECS = st.builds(
    lambda name, options: {"name": name, "configuration": options},
    _TEXTS,
    st.just({})
    | st.just({"id": "pickle"})
    | st.just({"level": 1, "checksum": True})
    | st.dictionaries(_TEXTS, _LEAVES),
)


def _places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The positions of all parts of a JSON value, each as the keys that lead to it."""
    if here:
        yield here
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*here, key))


def _mutate_json(data: st.DataObject, content: dict[str, Any]) -> None:
    """Change, remove, add or nest one part."""
    *way, last = data.draw(st.sampled_from(list(_places(content))), "place")
    parent: Any = content
    for key in way:
        parent = parent[key]
    how = data.draw(st.sampled_from(["value", "number", "codec", "remove", "add", "nest", "scale"]), "how")
    if how == "remove":
        del parent[last]
    elif how == "add" and isinstance(parent, list):
        parent.append(copy.deepcopy(data.draw(_VALUES | _CODECS, "value")))
    elif how == "add":
        parent[data.draw(_TEXTS | st.text(max_size=8), "key")] = copy.deepcopy(data.draw(_VALUES, "value"))
    elif how == "nest":
        parent[last] = [parent[last]]
    elif how == "scale" and type(parent[last]) is int:
        parent[last] = parent[last] * data.draw(st.sampled_from([-1, 2, 3, 10**3, 10**6, 10**9, 10**12]), "factor")
    else:
        # Copied, because hypothesis may return the same object again, which the next change would modify.
        parent[last] = copy.deepcopy(data.draw({"number": _NUMBERS, "codec": _CODECS}.get(how, _VALUES), "value"))


def _mutated_metadata(data: st.DataObject, file: Path) -> tuple[bytes, bool]:
    """A `zarr.json` with one to three changes, and whether its checksum was recomputed."""
    content = copy.deepcopy(json.loads(file.read_bytes()))
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        _mutate_json(data, content)
        if not content:
            break
    attributes = content.get("attributes")
    refitted = isinstance(attributes, dict) and "checksum" in attributes and bool(data.draw(st.integers(0, 3), "refit"))
    if refitted:
        attributes["checksum"] = description_checksum(attributes)
    text = json.dumps(content).encode()
    if data.draw(st.integers(0, 9), "torn") == 0:
        text = text[: data.draw(st.integers(0, len(text)), "length")]
    return text, refitted


def _mutated_bytes(data: st.DataObject, content: bytes) -> bytes:
    """`content` with bytes overwritten, inserted, removed or repeated, mostly near the header and the end."""
    size = len(content)
    near = st.integers(0, min(20, size)) | st.integers(0, size) | st.integers(max(0, size - 20), size)
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        start = min(data.draw(near, "start"), len(content))
        piece = data.draw(st.binary(min_size=1, max_size=12) | st.sampled_from([b"\xff" * 8, b"\x00" * 8]), "bytes")
        how = data.draw(st.sampled_from(["over", "in", "out", "again", "only"]), "how")
        after = content[start + len(piece) :] if how in ("over", "out") else content[start:]
        content = content[:start] + {"out": b"", "again": content}.get(how, piece) + after
        if how == "only":
            content = piece
    return content


def fuzz(what: str, examples: int, number: int = 0, packed: bool = False) -> Tally:
    """Change `metadata` (every zarr.json) or `chunks` of a store in `examples` ways by hypothesis."""
    tally = Tally(f"fuzzed {what}{', packed store' if packed else ''}")
    with toy_store(packed) as path:
        is_metadata = what == "metadata"
        files = [file for file in files_of(path) if (file.name == "zarr.json") == is_metadata]

        description = [path / "zarr.json"] if is_metadata else []  # has the most content, so it is half of the cases

        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def run(data: st.DataObject) -> None:
            file = data.draw(st.sampled_from(files) | st.sampled_from(description or files), "file")
            if is_metadata:
                content, refitted = _mutated_metadata(data, file)
            else:
                content, refitted = _mutated_bytes(data, file.read_bytes()), False
            case = f"{file.relative_to(path)} = {content[:2000]!r}"
            with instead(file, content):
                check_damage(tally, path, case, refitted)
                if tally.counts["inputs"] % 5 == 0:
                    check_recovered(tally, path, case)

        run()
    return tally
