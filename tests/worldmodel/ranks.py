"""Starts processes that train together, as torchrun does, without importing torch anew for each."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from tests.worldmodel.commands import MODULES, importing_from_here


def start_ranks(count: int, run: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """Begin `run(*arguments)` in `count` processes, each of which is told that it is one of so many ranks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=_as_rank, args=(n, count, port, run, arguments)) for n in range(count)]
    with importing_from_here():
        for process in processes:
            process.start()
    return processes


def finish(processes: list[BaseProcess], timeout_s: float = 120) -> list[int | None]:
    """Their exit codes. Those that still run after a while are killed, and have the code -9."""
    for process in processes:
        process.join(timeout_s)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def _as_rank(number: int, count: int, port: int, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    told = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    torch.set_num_threads(1)
    run(*arguments)
