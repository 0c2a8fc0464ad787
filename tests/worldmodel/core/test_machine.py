"""What the machine grants, and how many threads are worth it."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from worldmodel.core import machine, threads
from worldmodel.core.errors import UserError
from worldmodel.core.threads import choose_threads, set_threads, threads_kept

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("least", "most"), [(64 * 2**20, 2**50)])
def test_memory_is_what_machines_have(least: int, most: int) -> None:
    assert least < machine.memory_bytes() < most


def test_what_cannot_fit_is_refused_with_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2 * 2**30)
    machine.require_memory("trainer.batch_size=8", 2**30)
    with pytest.raises(UserError) as caught:
        machine.require_memory("trainer.batch_size=100000000", 5.5e12)
    assert str(caught.value) == (
        "trainer.batch_size=100000000 takes about 5,122 GiB of memory, and this machine has 2.0 GiB: expected a "
        "smaller value"
    )


_FAULTS = """
import resource
import sys
from worldmodel.core.interrupt import until_main
until_main(is_command=sys.argv[1] == "command")
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(b"1") * (16 * 2**20) for _ in range(8)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="it is about glibc")
def test_freed_memory_is_used_again_by_commands_alone() -> None:
    faults = {}
    for kind in ("command", "program"):
        command = [sys.executable, "-c", _FAULTS, kind]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        faults[kind] = int(ended.stdout)
    assert faults["command"] < 100 < 4000 < faults["program"]


@pytest.mark.parametrize(
    ("seconds", "chosen"), [({1: 0.02, 2: 0.005}, 2), ({1: 0.005, 2: 0.02}, 1), ({1: 0.01, 2: 0.01}, 1)]
)
def test_the_faster_number_of_threads_is_set(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], chosen: int
) -> None:
    monkeypatch.setattr(threads, "num_processors", lambda: 2)
    with threads_kept():
        assert choose_threads(lambda: time.sleep(seconds[torch.get_num_threads()])) == chosen
        assert torch.get_num_threads() == chosen


def test_a_single_processor_needs_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "num_processors", lambda: 1)
    with threads_kept():
        assert choose_threads(lambda: pytest.fail("measured")) == 1


def test_a_number_of_threads_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "num_processors", lambda: 2)
    with threads_kept():
        assert set_threads(2, lambda: pytest.fail("measured")) == 2
        assert set_threads("auto", lambda: time.sleep(0.001)) in (1, 2)
        for wrong in (0, 3, True, "two", 1.5):
            with pytest.raises(UserError, match=r"threads .*: expected auto, or a whole number from 1 to 2"):
                set_threads(wrong, lambda: None)  # type: ignore[arg-type]
