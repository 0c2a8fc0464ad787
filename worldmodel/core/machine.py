"""The resources that this process may use."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from worldmodel.core.errors import UserError

# Files with the memory limit of a container, in versions 2 and 1 of control groups.
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Numbers of malloc.h, and what they are set to [bytes]. The first is the largest that glibc accepts.
_MMAP_THRESHOLD, _LARGEST_REUSED = -3, 32 * 2**20
_TRIM_THRESHOLD, _MOST_KEPT = -1, 2**30


def reuse_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensors, where it is glibc. Elsewhere, nothing happens.

    By default it returns memory to the system as soon as some tens of MiB are free. When they are next touched, their
    pages are cleared again. That took a third of the time of encoding frames (EXPERIMENTS.md). Up to 1 GiB is kept, and
    tensors of more than 32 MiB are still returned.
    """
    if sys.platform != "linux":
        return
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        change(_MMAP_THRESHOLD, _LARGEST_REUSED)
        change(_TRIM_THRESHOLD, _MOST_KEPT)


def num_processors() -> int:
    """Number of processors that this process may use. Containers often grant fewer than the machine has."""
    # Only some systems have this call.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Largest memory that this process may use [bytes]. Memory in use by other processes is not subtracted."""
    limits = []
    for path in _MEMORY_LIMITS:
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # other systems have no such file, and "max" means no limit
            continue
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):  # a system without this information
        limits.append(2**63 - 1)
    return min(limits)


def require_memory(what: str, num_bytes: float) -> None:
    """Refuse an option that needs more memory than there is, before anything is allocated.

    Args:
        what: the option with its value, for example `trainer.batch_size=100000000`.
        num_bytes: memory that it needs at least [bytes].

    Raises:
        UserError: when it needs more than this process may use.
    """
    available = memory_bytes()
    if num_bytes > available:
        raise UserError(
            f"{what} takes about {_in_words(num_bytes)} of memory, and this machine has {_in_words(available)}: "
            "expected a smaller value"
        )


def _in_words(num_bytes: float) -> str:
    gib = num_bytes / 2**30
    return f"{gib:,.0f} GiB" if gib >= 10 else f"{gib:.1f} GiB"
