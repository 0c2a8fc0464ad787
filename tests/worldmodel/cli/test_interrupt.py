"""Ctrl-C ends a command in one line, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.source_tree import ROOT
from worldmodel.core import interrupt

START = "import sys; from worldmodel.cli.main import main; sys.exit(main())"


def begin(folder: Path, *typed: str) -> subprocess.Popen[str]:
    """`wm ...`, or `python -m ...` where that is what is typed, in a process of its own."""
    module = typed[:1] == ("-m",)
    arguments = [*typed] if module else ["-c", START, *typed]
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_ours(process: subprocess.Popen[str]) -> None:
    """Until the process listens to SIGTERM, as Python by itself does not: from then on signals are ours to answer."""
    status, deadline = Path(f"/proc/{process.pid}/status"), time.monotonic() + 60
    while status.exists() and time.monotonic() < deadline and process.poll() is None:
        (caught,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt")]
        if int(caught, 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.005)


def interrupted(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """Send it the signal; what it printed, if it ended in one line and exit code 130."""
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, ""), (process.returncode, out, err)
    assert len([line for line in out.splitlines() if line.startswith("interrupted: ")]) == 1, out
    return out


@pytest.mark.parametrize(
    "delay",
    [
        0.0,
        pytest.param(0.3, marks=pytest.mark.slow),
        0.7,
        *(pytest.param(delay, marks=pytest.mark.slow) for delay in (1.4, 2.4)),
    ],
)
@pytest.mark.parametrize("module", ["worldmodel.pretrain", "planning.run"])
def test_while_everything_is_imported(tmp_path: Path, module: str, delay: float) -> None:
    process = begin(tmp_path, "-m", module, "env=push", "data=/dev/fd/0")
    wait_for_ours(process)  # Python itself takes some hundredths of a second before it imports anything of ours
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if err.startswith(("error: /dev/fd/0 is not", "error: option 'data=/dev/fd/0' does not fit")):
        assert err.count("\n") == 1  # it came to its own end first, and the signal met nothing of it
    else:
        assert (process.returncode, out.count("\n"), err) == (130, 1, "")
        assert out.startswith("interrupted: ")


def test_terminate_is_a_ctrl_c(tmp_path: Path) -> None:
    process = begin(tmp_path, "collect", "env=push", "episodes=1", "out=data.zarr")
    wait_for_ours(process)
    interrupted(process, signal.SIGTERM)


LOADING = """
import time
from worldmodel.cli.command import ending_in_one_line
with ending_in_one_line("the same command begins anew"):
    try:
        print("loading", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:  # what torch does while it unpickles
        raise ValueError("could not determine the shape of object type 'torch.storage.UntypedStorage'")
"""


def test_an_error_that_a_library_makes_of_it_is_the_interruption(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOADING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    assert "the same command begins anew" in interrupted(process)


def test_what_imports_us_keeps_its_own_ctrl_c() -> None:
    code = (
        "import signal, os; import envs, planning, worldmodel; "
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler; "
        "assert 'OMP_WAIT_POLICY' not in os.environ"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


@pytest.mark.parametrize(
    ("typed", "module"),
    [
        (["python", "-m", "envs.collect", "env=push"], "envs.collect"),
        (["python", "-X", "dev", "-mplanning.run"], "planning.run"),
        (["python", "-Im", "worldmodel.train"], "worldmodel.train"),
        (["python", "-m"], ""),
        (["python", "train.py"], ""),
    ],
)
def test_the_module_that_is_typed(monkeypatch: pytest.MonkeyPatch, typed: list[str], module: str) -> None:
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "orig_argv", typed)
    assert interrupt._typed_module() == module
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])  # while the module runs
    assert interrupt._typed_module() == ""


def test_handlers_come_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(KeyboardInterrupt), interrupt.interruptions() as asked:
        assert not asked.received
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert asked.received
    assert {number: signal.getsignal(number) for number in before} == before
