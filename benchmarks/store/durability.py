"""Tests the durability of a trajectory store: `python -m benchmarks.store.durability [name ...]`.

The faults are kills, Ctrl-C, full and failing disks and power cuts at every system call of a recording, changes of
every byte of a store, cut or lost files, metadata and chunks invented by hypothesis, and several writers. A table of
counts is printed. Rows that end in `!` must be zero, and the exit code is 1 if one is not. Without names, all sweeps
run, which takes about an hour. `--list` prints the names.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from benchmarks.store.damage import cut_and_lost_files, flipped_bytes, fuzz
from benchmarks.store.faults import Tally
from benchmarks.store.power import power_cuts
from benchmarks.store.sweeps import (
    PRESENT,
    command_errors,
    competing_writers,
    every_call,
    failed_recovery,
    full_disk,
    random_kills,
)

SWEEPS: dict[str, Callable[[], Tally]] = {
    "kill": lambda: every_call("kill", PRESENT),
    "kill-new": lambda: every_call("kill", 0),
    "tear": lambda: every_call("tear", PRESENT),
    "kill-random": lambda: random_kills(500, 0),
    "kill-recovery": lambda: failed_recovery("kill"),
    "full-recovery": lambda: failed_recovery("ENOSPC"),
    "ctrl-c": lambda: every_call("interrupt", PRESENT),
    "ctrl-c-new": lambda: every_call("interrupt", 0),
    "full": lambda: every_call("ENOSPC", PRESENT, lasting=True),
    "full-once": lambda: every_call("ENOSPC", PRESENT),
    "fails": lambda: every_call("EIO", PRESENT, lasting=True),
    "fails-once": lambda: every_call("EIO", PRESENT),
    "fails-new": lambda: every_call("EIO", 0, lasting=True),
    "full-collect": lambda: command_errors("ENOSPC"),
    "fails-collect": lambda: command_errors("EIO"),
    "full-tmpfs": full_disk,
    "power": lambda: power_cuts(3, 4, 0),
    "writers": lambda: competing_writers(8, 100),
    "files": cut_and_lost_files,
    "files-packed": lambda: cut_and_lost_files(packed=True),
    "fuzz-metadata": lambda: fuzz("metadata", 5000),
    "fuzz-metadata-packed": lambda: fuzz("metadata", 2000, packed=True),
    "fuzz-chunks": lambda: fuzz("chunks", 5000),
    "fuzz-chunks-packed": lambda: fuzz("chunks", 2000, packed=True),
    "bytes": flipped_bytes,
    "bytes-packed": lambda: flipped_bytes(step=997, packed=True),
}


def report(name: str, tally: Tally, seconds: float) -> None:
    """Print the counts of one sweep."""
    print(f"{name}: {tally.name} ({seconds:.0f} s)")
    for what, count in sorted(tally.counts.items(), key=lambda item: (item[0].endswith("!"), item[0])):
        print(f"    {count:7d}  {what}")
    for example in tally.examples:
        print(f"    FAILED   {example}")
    sys.stdout.flush()


def main() -> None:
    names = sys.argv[1:] or list(SWEEPS)
    if unknown := set(names) - set(SWEEPS):
        print(*SWEEPS, sep="\n")
        raise SystemExit(0 if unknown == {"--list"} else f"unknown {sorted(unknown)}: choose from the names above")
    failures = faults = 0
    for name in names:
        began = time.monotonic()
        tally = SWEEPS[name]()
        report(name, tally, time.monotonic() - began)
        failures += tally.failures
        faults += tally.counts["faults"] + tally.counts["inputs"]
    print(f"{faults} faults and inputs, {failures} of what must never happen")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
