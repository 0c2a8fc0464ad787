"""The processes that train one model together, as torchrun starts them, and what they have to agree on.

Each of the processes is a *rank*. All of them run the same command. A training that runs alone has one rank, and
nothing in this module does anything then.

Shapes: `B` rows of the batch of all ranks.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.interrupt import INTERRUPTED as _INTERRUPTED
from worldmodel.core.roll_call import FAILED, FINISHED, INTERRUPTED, PATIENCE_S, RankLost, RollCall

T = TypeVar("T")
Rows = TypeVar("Rows", bound=Any)

# What torchrun tells every process. A program that sets some of them only was not started by it.
_VARIABLES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_JOIN_S: Final = 300.0  # time that the ranks of a cluster may need to start, which includes importing torch
# Time that a collective operation may take [s]. Within a step, ranks wait for each other for much less. What takes
# longer, such as decoding a recording, is waited for without a limit (`in_turn`).
_COLLECTIVE_S: Final = 1800.0
_FAREWELL_S: Final = 5.0  # time for the other ranks to notice that one has failed, where the store goes with that rank


@dataclasses.dataclass(frozen=True)
class Rank:
    """One of the processes that train together.

    Attributes:
        number: its number, from 0.
        count: number of ranks.
        local: its number among the ranks of its machine.
    """

    number: int = 0
    count: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this rank prints, logs and writes files. All ranks write checkpoints in parts."""
        return self.number == 0

    @property
    def rows(self) -> slice:
        """Every `count`-th row of a batch of all ranks, from `number` on.

        A batch that is divided into consecutive parts is then divided alike on one rank and on many: part p of all
        ranks together is part p of the whole batch.
        """
        return slice(self.number, None, self.count)

    def share(self, batch: Rows, together: int = 1) -> Rows:
        """This rank's rows of `batch [B, ...]`, an array or tensor. Alone, it is `batch` itself.

        Args:
            batch: rows of all ranks.
            together: number of consecutive rows that stay on one rank, such as the frames of one episode.
        """
        if self.count == 1:
            return batch
        self.require_divisible("a batch of", len(batch), together)
        grouped = batch.reshape(-1, together, *batch.shape[1:])[self.rows]
        return grouped.reshape(-1, *batch.shape[1:])

    def require_divisible(self, what: str, batch: int, together: int = 1) -> None:
        """Raises UserError for a batch that cannot be divided equally among the ranks. `what` names the option."""
        if batch % (self.count * together):
            parts = f"{self.count} ranks" + (f" of {together} each" if together > 1 else "")
            raise UserError(f"{what} {batch} cannot be divided among {parts}: expected a multiple of "
                            f"{self.count * together}")  # fmt: skip


ALONE: Final = Rank()


class _Company:
    """The ranks that have found each other."""

    def __init__(self, rank: Rank, store: Any, roll_call: RollCall, machines: int) -> None:
        self.rank, self.store, self.roll_call, self.machines = rank, store, roll_call, machines
        self.meetings = 0  # all ranks count alike, since they run the same command
        # torchrun holds the store itself. Other launchers leave it to the first rank.
        self.has_store = rank.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)


_company: _Company | None = None


def here() -> Rank:
    """This process among those that train together. `ALONE` outside of `together`."""
    return ALONE if _company is None else _company.rank


def launched(variables: Mapping[str, str] = os.environ) -> Rank:
    """The rank that torchrun has made of this process; `ALONE` if it was started otherwise.

    Raises:
        UserError: for numbers that make no sense.
    """
    if not all(name in variables for name in _VARIABLES):
        return ALONE
    given = [variables[name] for name in _VARIABLES[:3]]
    try:
        number, count, local = map(int, given)
    except ValueError:
        number = count = local = -1
    if not 0 <= number < count or not 0 <= local < count:
        told = ", ".join(f"{name}={value}" for name, value in zip(_VARIABLES, given, strict=False))
        raise UserError(f"{told} in the environment: expected numbers as torchrun sets them")
    return Rank(number, count, local)


@contextmanager
def together(on_lost: Callable[[str], None], patience_s: float = PATIENCE_S) -> Iterator[Rank]:
    """A context in which the processes that torchrun has started are ranks of one training.

    However a rank ends, the others end too. One of them gives the reason, and the others end without a word.

    Args:
        on_lost: called in a thread when the main thread may be waiting for a rank that is lost. It ends the process.
            If its argument is not empty, it prints it first.
        patience_s: time after which a rank that gives no sign of life counts as lost [s].

    Raises:
        RankLost: when another rank has died.
        SystemExit: when another rank has given the reason.
        UserError: when the ranks do not find each other.
    """
    global _company
    rank = launched()
    if rank.count == 1:
        yield rank
        return
    company = _company = _join(rank, on_lost, patience_s)
    try:
        yield rank
        company.roll_call.end(FINISHED)
        _leave(company)
    except BaseException as error:
        try:
            _fall_apart(company, error)
        finally:
            company.roll_call.leave(has_store=company.has_store, patience_s=_FAREWELL_S)
        raise
    finally:
        _company = None


def _join(rank: Rank, on_lost: Callable[[str], None], patience_s: float) -> _Company:
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    within = datetime.timedelta(seconds=_JOIN_S)
    try:
        store, _, _ = next(iter(rendezvous("env://", timeout=within)))
        store.set_timeout(within)
        store.set(f"name/{rank.number}", json.dumps([rank.local, os.getpid(), platform.node()]))
        told = [json.loads(name) for name in store.multi_get([f"name/{number}" for number in range(rank.count)])]
        names = [
            f"rank {number} of {rank.count} (process {process} on {machine})"
            for number, (_, process, machine) in enumerate(told)
        ]

        def lost(message: str) -> None:
            on_lost(message if message and roll_call.claim() else "")

        roll_call = RollCall(store.clone(), rank.number, names, lost, patience_s)
        # Figures are added on the CPU and gradients where the network is.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        patience = datetime.timedelta(seconds=_COLLECTIVE_S)
        dist.init_process_group(backend, store=store, rank=rank.number, world_size=rank.count, timeout=patience)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).partition("\n")[0][:200]
        raise UserError(
            f"rank {rank.number} of {rank.count} does not find the others at {address}: {reason}"
        ) from error
    roll_call.start()
    return _Company(rank, store, roll_call, machines=sum(local == 0 for local, _, _ in told))


def _leave(company: _Company) -> None:
    import torch.distributed as dist

    company.roll_call.leave(has_store=company.has_store, patience_s=PATIENCE_S)
    dist.destroy_process_group()


def _fall_apart(company: _Company, error: BaseException) -> None:
    """End this rank after `error`: return if it gives the reason itself. Raises RankLost or SystemExit otherwise."""
    roll_call, rank = company.roll_call, company.rank
    roll_call.notice()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):  # torchrun's, since the process is about to end
            signal.signal(number, signal.SIG_IGN)
    found = None
    if isinstance(error, KeyboardInterrupt):
        roll_call.end(INTERRUPTED)  # torchrun also interrupts all others when one has died
        found = roll_call.find_lost()
        if found is None:
            if not rank.is_first:
                raise SystemExit(_INTERRUPTED) from None
            return
    elif not isinstance(error, UserError | RunStopped | OSError | MemoryError | SystemExit):
        found = roll_call.find_lost()
        roll_call.end(FAILED)
    else:
        roll_call.end(FAILED)
    if not rank.is_first:
        roll_call.await_told()  # the first rank prints, if it has as much to say
    if found == "" or not roll_call.claim():
        roll_call.await_told()
        raise SystemExit(2 if isinstance(error, UserError) else 1) from None
    if found:
        raise RankLost(found) from None
    if isinstance(error, UserError | RunStopped) and not rank.is_first:
        raise type(error)(f"rank {rank.number} of {rank.count}: {error}") from error


def agreed(make: Callable[[], T]) -> T:
    """What `make` returns on the first rank, on every rank. It is a JSON value. Other ranks do not call it.

    Files of a run are written and looked for by the first rank alone, so that all ranks see the same.
    """
    if _company is None:
        return make()
    key = _next_key("agreed")
    if _company.rank.is_first:
        made = make()
        _company.store.set(key, json.dumps([made]))
        return made
    _await(key)
    (value,) = json.loads(_company.store.get(key))
    return value


def in_turn(make: Callable[[], T]) -> T:
    """`make()`, first on the first rank, then on one rank of every machine, then on all others.

    It is for work whose result is kept in a file. With a file system that all machines share, the first rank does the
    work. Otherwise, one rank of every machine does it.
    """
    if _company is None:
        return make()
    rank, key = _company.rank, _next_key("turn")
    turn = 0 if rank.is_first else 1 if rank.local == 0 else 2
    if turn > 0:
        _await(f"{key}/0")
    if turn > 1:
        _await(f"{key}/1")
    made = make()
    if turn == 0:
        _company.store.set(f"{key}/0", "")
    if rank.local == 0 and _company.store.add(f"{key}/machines", 1) == _company.machines:
        _company.store.set(f"{key}/1", "")
    return made


def _next_key(what: str) -> str:
    assert _company is not None
    _company.meetings += 1
    return f"{what}/{_company.meetings}"


def _await(key: str) -> None:
    """Wait for `key` in the store, however long it takes. If the rank that sets it dies, this one ends too."""
    assert _company is not None
    while not _company.store.check([key]):
        time.sleep(0.05)  # in short waits, so that Ctrl-C is noticed
