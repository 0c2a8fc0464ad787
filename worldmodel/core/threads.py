"""Measures how many threads small networks should use, since this depends on the load of the machine.

On two idle cores a plan takes 32 ms with two threads and 49 ms with one. Beside a process that uses both cores, two
threads wait for each other. A plan then takes 87 to 129 ms, or 436 to 894 ms if the threads spin. One thread takes 75
to 78 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

import torch

from worldmodel.core.errors import UserError
from worldmodel.core.machine import num_processors

Part = TypeVar("Part")
Result = TypeVar("Result")

_ROUNDS: Final = 3
# More threads must be faster by this factor, since fewer are the safer choice if another process starts later.
_WORTH: Final = 1.1


def choose_threads(measure: Callable[[], object], choices: tuple[int, ...] = (1, 2)) -> int:
    """Set torch to the number of threads with which `measure` is fastest, and return that number.

    Args:
        measure: an operation that will be repeated often, for example making one plan. It is called once to warm up,
            and then three times for each choice, in turn. The fastest of the three counts.
        choices: numbers of threads, ascending. Those above the number of processors are left out, except 1.
    """
    usable = [n for n in choices if n == 1 or n <= num_processors()]
    if len(usable) == 1:
        torch.set_num_threads(usable[0])
        return usable[0]
    fastest = dict.fromkeys(usable, float("inf"))
    for _ in range(_ROUNDS):
        for count in usable:
            torch.set_num_threads(count)
            if fastest[count] == float("inf"):
                measure()  # the first call starts threads and fills caches
            began = time.perf_counter()
            measure()
            fastest[count] = min(fastest[count], time.perf_counter() - began)
    chosen = usable[0]
    for count in usable[1:]:
        if fastest[count] * _WORTH < fastest[chosen]:
            chosen = count
    torch.set_num_threads(chosen)
    return chosen


def set_threads(wanted: int | str, measure: Callable[[], object]) -> int:
    """Set torch's threads by the option `threads=auto|N`, and return their number.

    Raises:
        UserError: for anything but `auto` and a whole number from 1 to the number of processors.
    """
    if wanted == "auto":
        return choose_threads(measure)
    most = num_processors()
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= most:
        raise UserError(f"threads {wanted!r}: expected auto, or a whole number from 1 to {most}")
    torch.set_num_threads(wanted)
    return wanted


@contextmanager
def threads_kept() -> Iterator[None]:
    """A context after which torch has as many threads as before it."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_in_threads(work: Callable[[Part], Result], parts: Sequence[Part], device: torch.device) -> list[Result]:
    """The results of `work` for all `parts` in their order. On a CPU, each of torch's threads is at another part.

    Where operations are small, threads that share every operation often wait for each other.

    Args:
        work: what is done with a part, which may not need any other.
        parts: the parts.
        device: where `work` computes. On a GPU, one part follows the other.
    """
    workers = min(torch.get_num_threads(), len(parts)) if device.type == "cpu" else 1
    if workers < 2:
        return [work(part) for part in parts]
    with threads_kept(), ThreadPoolExecutor(workers) as pool:
        torch.set_num_threads(1)
        return list(pool.map(work, parts))
