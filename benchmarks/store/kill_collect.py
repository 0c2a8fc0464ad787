"""Kill a recording at random times and resume it: `python -m benchmarks.store.kill_collect [kills] [seed]`.

It prints the number of committed episodes after each kill. It fails if an episode is lost, or if the finished recording
differs in any bit from an uninterrupted one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from worldmodel.data import TrajectoryStore

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("images/camera", "action", "proprio", "state")


def start_collect(out: Path, *options: str) -> subprocess.Popen[str]:
    """Start the real command in a new process."""
    command = [sys.executable, "-m", "envs.collect", "env=push", f"out={out}", *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def committed_episodes(out: Path) -> int:
    """Number of episodes that a reader sees, 0 before there is a store."""
    return TrajectoryStore.open(out).num_episodes if out.exists() else 0


def kill_at_random(out: Path, rng: np.random.Generator, *options: str) -> tuple[int, bool]:
    """Start the command and kill it (SIGKILL) shortly after recording begins, or sometimes before.

    Returns:
        The number of committed episodes, and whether the command had finished before it could be killed.
    """
    before = committed_episodes(out)
    process = start_collect(out, *options)
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0.0, 2.0))  # while it starts
    else:
        while process.poll() is None and committed_episodes(out) == before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.15))
    workers = child_processes(process.pid)
    finished = process.poll() is not None
    process.kill()
    output, _ = process.communicate()
    if finished and process.returncode != 0:
        raise RuntimeError(f"the command failed with exit code {process.returncode}: {output}")
    wait_until_gone(workers, seconds=20)
    return committed_episodes(out), finished


def child_processes(pid: int) -> list[int]:
    """Process ids of the children of `pid`. The list is empty if `pid` has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def wait_until_gone(pids: list[int], seconds: float) -> None:
    """Wait until all processes have ended. Raises TimeoutError if one still runs after that time."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        while _is_running(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                raise TimeoutError(f"worker {pid} outlived the command that started it by {seconds} s")
            time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def differences(ours: Path, theirs: Path) -> list[str]:
    """Names of the arrays in which two stores differ, over the episodes that both have."""
    a, b = TrajectoryStore.open(ours), TrajectoryStore.open(theirs)
    episodes = min(a.num_episodes, b.num_episodes)
    rows = min(a.num_rows, b.num_rows)
    different = [name for name in COLUMNS if a.read(name, 0, rows).tobytes() != b.read(name, 0, rows).tobytes()]
    if (a.episode_ends[:episodes] != b.episode_ends[:episodes]).any():
        different.append("episode_ends")
    if (a.episode_seeds[:episodes] != b.episode_seeds[:episodes]).any():
        different.append("episode_seed")
    return different


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rng = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    options = [f"episodes={kills * 80}", "episode_steps=10", "env.image_size=32"]
    lost = 0
    with tempfile.TemporaryDirectory() as folder:
        unbroken, killed = Path(folder) / "unbroken.zarr", Path(folder) / "killed.zarr"
        reference = start_collect(unbroken, *options)
        output, _ = reference.communicate()
        if reference.returncode != 0:
            raise SystemExit(f"the unbroken recording failed: {output}")
        before = 0
        for number in range(1, kills + 1):
            present, finished = kill_at_random(killed, rng, *options)
            different = differences(killed, unbroken) if killed.exists() else []
            lost += max(0, before - present) + len(different)
            note = " (had finished)" if finished else ""
            print(f"kill {number:2d}: {before} -> {present} committed episodes, differing: {different or 'none'}{note}")
            before = present
        final = start_collect(killed, *options)
        final.communicate()
        same = not differences(killed, unbroken) and committed_episodes(killed) == committed_episodes(unbroken)
        print(f"{kills} kills, {lost} losses, finished with exit code {final.returncode}, identical: {same}")
    if lost or final.returncode != 0 or not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
