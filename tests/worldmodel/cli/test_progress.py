"""Progress and notices on the console, and in files."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from rich.console import Console

from tests.source_tree import ROOT
from worldmodel.cli import console as console_module
from worldmodel.cli import progress as progress_module
from worldmodel.cli.console import notices
from worldmodel.cli.progress import Steps, counting


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed where the output is no terminal."""
    shown = io.StringIO()
    monkeypatch.setattr(progress_module, "console", Console(file=shown, soft_wrap=True, highlight=False))
    monkeypatch.setattr(console_module, "console", Console(file=shown, soft_wrap=True, highlight=False))
    return shown


def test_a_file_gets_its_first_line_within_five_seconds_in_steps_per_second(shown: io.StringIO) -> None:
    clock = Clock()
    steps = Steps(clock=clock)
    steps.begin("pretrain", 10, 600)
    for done in range(11, 60):
        clock.now += 0.5
        steps.step(done, "loss 0.1" if done == 40 else "")
    steps.end()
    lines = shown.getvalue().splitlines()
    assert lines[0] == "pretrain: 14 of 600, 2 steps/s, 5 min left"
    assert len(lines) == 1, "the second comes half a minute later"
    clock.now += 10
    steps.step(61)
    assert shown.getvalue().splitlines()[1].endswith("left  loss 0.1"), "with the last figures that there were"


def test_no_time_is_promised_before_the_first_step_is_done(shown: io.StringIO) -> None:
    clock = Clock()
    steps = Steps("pairs", clock=clock)
    steps.begin("draw pairs", 0, 100)
    for done in (0, 1):
        clock.now += 40
        steps.step(done)
    assert shown.getvalue().splitlines() == ["draw pairs: 0 of 100", "draw pairs: 1 of 100, 0.0125 pairs/s, 2.2 h left"]


def test_what_takes_no_time_says_nothing_and_reports_stay(shown: io.StringIO) -> None:
    steps = Steps(clock=Clock())
    steps.begin("look", 0, 3)
    for done in (1, 2, 3):
        steps.step(done)
    steps.report("step 3: [probe] 0.5")
    steps.end()
    assert shown.getvalue() == "step 3: [probe] 0.5\n"


def test_a_terminal_gets_a_bar_with_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=160)
    monkeypatch.setattr(progress_module, "console", terminal)
    with counting("decode frames") as progress:
        progress(5, 10)
        progress(10, 10)
    assert "decode frames" in screen.getvalue()
    assert "10/10" in screen.getvalue() and "steps/s" in screen.getvalue()


def test_notices_are_printed_with_what_strangers_wrote_in_them_made_harmless(shown: io.StringIO) -> None:
    log = logging.getLogger("worldmodel.data.recorder")
    with notices():
        log.warning("dropped: the episode of %s", "a[red]b\x1b[2J\nc")
        log.info("4 channels")
        log.debug("not this")
    assert shown.getvalue() == "dropped: the episode of a[red]b c\n4 channels\n"
    assert logging.getLogger("worldmodel").handlers == []


def test_without_a_handler_warnings_go_to_standard_error() -> None:
    code = "import logging; logging.getLogger('worldmodel.data.recorder').warning('dropped: 3 steps')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "dropped: 3 steps\n")
