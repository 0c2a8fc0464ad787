"""Sweeps over all calls of a recording at which kills, Ctrl-C, errors, power cuts or other writers can hit it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import numpy as np

import envs.collect
from benchmarks.store.faults import (
    SPEC,
    Fault,
    Injector,
    Interception,
    Tally,
    check_readable,
    check_recovery,
    make_store,
    received,
    record,
    same,
    start,
    toy_episode,
)
from worldmodel.core.errors import UserError
from worldmodel.data import Episode, Recorder, TrajectoryStore, WritingStopped
from worldmodel.data.store.recovery import recover

PRESENT = 2  # episodes in the store before the sweep


def record_and_tell(connection: Connection, path: Path, first: int, count: int, fault: Fault | None) -> None:
    """Record in this process. Send each episode's number when it is safe on disk, and finally how recording ended."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the sweep reports the results
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the background jobs of a shell lack it
    injector = Injector(fault or Fault("none", 0))
    try:
        with Interception(path.parent, injector), Recorder(path, SPEC) as recorder:
            for index in range(first, first + count):
                connection.send(_record_insisting(recorder, toy_episode(index), fault))
        connection.send("hit" if injector.done else "finished")
    except KeyboardInterrupt:
        connection.send("interrupted")
    except (UserError, WritingStopped) as error:
        connection.send(f"stopped: {error}")
    except BaseException as error:
        connection.send(f"crashed: {type(error).__name__}: {error}")


def _record_insisting(recorder: Recorder, episode: Episode, fault: Fault | None) -> int:
    """Record an episode, and try again after an error that does not last. The second attempt must record it."""
    try:
        return record(recorder, episode)
    except WritingStopped:
        if fault is None or fault.lasting:
            raise
        return recorder.end_episode(
            episode.images["camera"][-1], episode.proprio[-1], episode.state[-1], seed=episode.seed
        )


def outcome(path: Path, first: int, count: int, fault: Fault | None) -> tuple[int, str]:
    """Run `record_and_tell`. Returns the number of acknowledged episodes, and its last message or `killed`."""
    process, connection = start(record_and_tell, path, first, count, fault)
    told = received(connection)
    process.join()
    end = told.pop() if told and isinstance(told[-1], str) else "killed"
    return len(told), end


def every_call(what: str, present: int, step: int = 1, lasting: bool = False) -> Tally:
    """Let `what` happen at every `step`-th call that recording an episode makes, on a store of `present` episodes.

    With `present` 0, recording also makes the store.
    """
    tally = Tally(f"{what}{' from' if lasting else ' at'} every call, {'new store' if not present else 'one episode'}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_store(folder / "before" / "data.zarr", PRESENT)
        for number in range(1, 10_000, step):
            path = folder / "now" / "data.zarr"
            if present:
                shutil.copytree(folder / "before", folder / "now")
            acknowledged, end = outcome(path, present, 1, Fault(what, number, lasting))
            if end == "finished":
                break
            case = f"call {number}"
            tally.add("faults")
            tally.add(f"ended: {end.partition(':')[0]}")
            tally.expect(not end.startswith("crashed"), "crashes", f"{case}: {end}")
            tally.expect(what != "interrupt" or end == "interrupted", "Ctrl-C without effect", f"{case}: {end}")
            tally.expect("\n" not in end, "messages of several lines", f"{case}: {end}")
            found = check_readable(tally, path, present + acknowledged, case)
            check_recovery(tally, path, found, case)
            shutil.rmtree(folder / "now")
    return tally


def random_kills(kills: int, seed: int) -> Tally:
    """Send SIGKILL at random times of one long recording, which is resumed each time."""
    tally = Tally("kill at random moments")
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        path, present = Path(name) / "now" / "data.zarr", 0
        for number in range(kills):
            process, connection = start(record_and_tell, path, present, 10_000, None)
            acknowledged = 0
            if rng.random() < 0.8:  # otherwise it is killed while it starts
                acknowledged += connection.recv() is not None
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
            acknowledged += len(received(connection))
            process.join()
            tally.add("faults")
            tally.add("episodes acknowledged", acknowledged)
            present = check_readable(tally, path, present + acknowledged, f"kill {number}")
            check_recovery(tally, path, present, f"kill {number}")
            present += 1
    return tally


def failed_recovery(what: str, step: int = 1) -> Tally:
    """Let `what` happen at every `step`-th call of the recovery of a damaged store. A second recovery must succeed."""
    tally = Tally(f"{what} at every call of a recovery")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_store(folder / "before" / "data.zarr", 3)  # 27 rows. The second chunk of pixels has the last two episodes.
        (folder / "before" / "data.zarr/data/images/camera/c.1.0.0.0").write_bytes(b"damaged")
        for number in range(1, 10_000, step):
            shutil.copytree(folder / "before", folder / "now")
            path, case = folder / "now" / "data.zarr", f"call {number}"
            process, connection = start(_recover, path, Fault(what, number, lasting=what == "ENOSPC"))
            end = (received(connection) or ["killed"])[-1]
            process.join()
            if end == "finished":
                break
            tally.add("faults")
            tally.add(f"ended: {end.partition(':')[0]}")
            tally.expect(not end.startswith("crashed"), "crashes", f"{case}: {end}")
            done = recover(path, lambda *_: None)
            found = check_readable(tally, path, 1, case)
            tally.expect(done.kept == found == 1, "episodes lost by recovery", f"{case}: {done}")
            beside = sorted(p.name for p in path.parent.iterdir())
            tally.expect(beside == ["data.zarr", "data.zarr.damaged"], "leftovers", f"{case}: {beside}")
            shutil.rmtree(folder / "now")
    return tally


def _recover(connection: Connection, path: Path, fault: Fault) -> None:
    injector = Injector(fault)
    try:
        with Interception(path.parent, injector):
            recover(path, lambda *_: None)
        connection.send("hit" if injector.done else "finished")
    except (UserError, WritingStopped) as error:
        connection.send(f"stopped: {error}")
    except BaseException as error:
        connection.send(f"crashed: {type(error).__name__}: {error}")


# --- a disk that is really full ---------------------------------------------------------------------------------------


class CannotMount(Exception):
    """There is no permission to make a small file system here."""


@contextlib.contextmanager
def small_disk(kilobytes: int) -> Iterator[Path]:
    """A file system of that size in memory. Raises CannotMount without the permission, which usually only root has."""
    with tempfile.TemporaryDirectory() as name:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", name]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CannotMount(getattr(error, "stderr", None) or str(error)) from error
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def full_disk(rounds: int = 5) -> Tally:
    """Record until a small disk is full, read, make room and resume. It is skipped if no such disk can be mounted."""
    tally = Tally("small tmpfs filled up")
    try:
        with small_disk(kilobytes=400) as disk:
            path, present = disk / "now" / "data.zarr", 0
            for number in range(rounds):
                ballast = disk / "ballast"
                ballast.write_bytes(bytes((rounds - number) * 40_000))
                acknowledged, end = outcome(path, present, 1000, None)
                tally.add("faults")
                tally.add("episodes acknowledged", acknowledged)
                tally.expect(end.startswith("stopped: ") and "No space left" in end, "full disks not named", end)
                present = check_readable(tally, path, present + acknowledged, f"round {number}")
                ballast.unlink()
            check_recovery(tally, path, present, "at the end")
    except CannotMount as error:
        tally.add(f"skipped, cannot mount: {str(error).strip()}")
    return tally


# --- the command line ------------------------------------------------------------------------------------------------


def command_errors(what: str, step: int = 1) -> Tally:
    """Fail the calls of `envs.collect` from every `step`-th on.

    It must print one line, exit with code 1 or 2, and lose nothing.
    """
    tally = Tally(f"{what} in envs.collect")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.redirect_stdout(io.StringIO()):
            _collect_toy(folder / "before" / "data.zarr", PRESENT)
        for number in range(1, 10_000, step):
            shutil.copytree(folder / "before", folder / "now")
            path = folder / "now" / "data.zarr"
            process, connection = start(_type_collect, path, PRESENT + 1, Fault(what, number, lasting=True))
            told = received(connection)
            process.join()
            if told == ["finished"]:
                break
            text = (path.parent / "printed").read_text() if (path.parent / "printed").exists() else ""
            case = f"call {number}: exit code {process.exitcode}, {text!r}"
            complaints = [line for line in text.splitlines() if line.startswith(("stopped: ", "error: "))]
            tally.add("faults")
            tally.add(f"exit code {process.exitcode}")
            tally.expect(process.exitcode in (0, 1, 2), "crashes", case)
            tally.expect("Traceback" not in text and "Exception" not in text, "tracebacks", case)
            tally.expect(len(complaints) == (process.exitcode != 0), "complaints other than one line", case)
            (path.parent / "printed").unlink()
            found = check_readable(tally, path, PRESENT, case)
            tally.expect(process.exitcode != 0 or found == PRESENT + 1, "failures that look like success", case)
            shutil.rmtree(folder / "now")
    return tally


class _Toy:
    """Stands for an environment, because only its description is used here."""

    def reset(self, seed: int) -> None:
        pass

    def close(self) -> None:
        pass


def _collect_toy(path: Path, episodes: int) -> None:
    """Run the real command on toy episodes, without simulation."""
    with (
        mock.patch.object(envs.collect, "make_env", lambda options: _Toy()),
        mock.patch.object(envs.collect, "describe", lambda env, options: SPEC),
        mock.patch.object(envs.collect, "record_in_parallel", lambda *given: (toy_episode(i) for i in given[3])),
        mock.patch.object(sys, "argv", ["envs.collect", "env=push", f"episodes={episodes}", f"out={path}"]),
    ):
        envs.collect.main()


def _type_collect(connection: Connection, path: Path, episodes: int, fault: Fault) -> None:
    printed = os.open(path.parent / "printed", os.O_WRONLY | os.O_CREAT)
    for number in (1, 2):
        os.dup2(printed, number)
    injector = Injector(fault)
    with Interception(path, injector):  # also `data.zarr.lock` and all other paths that begin with the store's name
        _collect_toy(path, episodes)
    if not injector.done:
        connection.send("finished")


# --- several writers -------------------------------------------------------------------------------------------------


def compete(connection: Connection, path: Path, writer: int, episodes: int) -> None:
    """Record episodes from `writer * 1000` on, a few at a time, whenever the store is free."""
    rng, done, refusals = np.random.default_rng(writer), 0, []
    while done < episodes:
        try:
            with Recorder(path, SPEC) as recorder:
                for _ in range(min(int(rng.integers(1, 8)), episodes - done)):
                    record(recorder, toy_episode(writer * 1000 + done))
                    done += 1
        except UserError as error:
            refusals.append(str(error))
            time.sleep(rng.uniform(0, 0.05))
    connection.send((os.getpid(), refusals))


def competing_writers(writers: int, episodes: int) -> Tally:
    """Let several processes write `episodes` episodes each to one store. Each tries again when it is refused."""
    tally = Tally(f"{writers} writers x {episodes} episodes")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "data.zarr"
        processes = [start(compete, path, writer, episodes) for writer in range(writers)]
        results = [received(connection) for _, connection in processes]
        for process, _ in processes:
            process.join()
        tally.expect(all(results), "writers that failed", str([p.exitcode for p, _ in processes]))
        told = [messages[0] for messages in results if messages]
        _check_refusals(tally, {pid for pid, _ in told}, [text for _, refusals in told for text in refusals])
        store = TrajectoryStore.open(path)
        wanted = {writer * 1000 + i for writer in range(writers) for i in range(episodes)}
        seeds = store.episode_seeds.tolist()
        tally.add("episodes", len(seeds))
        tally.expect(set(seeds) == wanted, "episodes lost", str(sorted(wanted - set(seeds))[:9]))
        tally.expect(len(seeds) == len(set(seeds)), "episodes written twice", str(len(seeds) - len(set(seeds))))
        for number, seed in enumerate(seeds):
            tally.expect(same(store.episode(number), toy_episode(seed)), "wrong episodes", str(number))
    return tally


def _check_refusals(tally: Tally, pids: set[int], refusals: Iterable[str]) -> None:
    for text in refusals:
        tally.add("refusals")
        match = re.search(r"is being written by process (\d+) on (\S+) since ", text)
        named = match is not None and int(match[1]) in pids and match[2] == socket.gethostname()
        tally.expect(named, "refusals that do not name the owner", text)
