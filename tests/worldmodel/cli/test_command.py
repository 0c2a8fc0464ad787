"""The door that every command reads its configuration through: one clear line and exit code 2 for a user's mistake."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import pytest
from hydra.core.hydra_config import HydraConfig
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from envs import collect
from worldmodel.cli.command import Config, _quietly, command, composed, ending_in_one_line, next_command
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.files import output_file, output_folder
from worldmodel.core.options import from_config
from worldmodel.core.roll_call import RankLost


@dataclasses.dataclass(frozen=True)
class Options:
    speed: float
    sizes: tuple[int, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.speed < 0:
            raise ValueError(f"speed {self.speed} must not be negative")


# What `run` returns: exit code, what the program got (None where it did not start), standard error.
Run = Callable[..., tuple[int, Config | None, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Start a command over `configs/<name>.yaml` in this process, with the given arguments."""
    monkeypatch.chdir(tmp_path)

    def start(
        name: str, *arguments: str, main: Callable[[Config], None] | None = None, **options: bool
    ) -> tuple[int, Config | None, str]:
        received: list[Config] = []

        def record(config: Config) -> None:
            received.append(config)
            if main is not None:
                main(config)

        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        code = 0
        try:
            command(name, **options)(record)()
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            code = stop.code
        return code, received[0] if received else None, capsys.readouterr().err

    return start


def assert_one_line(error: str) -> None:
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")


# --- messages --------------------------------------------------------------------------------------------------------


def test_choices_are_listed_and_the_nearest_is_suggested() -> None:
    message = choices_message("env", "pussh", ["reacher", "push"])
    assert message == "unknown env 'pussh': choose from push, reacher (did you mean push?)"


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert choices_message("env", "xyz", ["push"]) == "unknown env 'xyz': choose from push"


@given(st.text(max_size=20), st.lists(st.text("abcde", min_size=1, max_size=8), min_size=1, unique=True))
def test_a_suggestion_is_always_one_of_the_choices(received: str, accepted: list[str]) -> None:
    message = choices_message("thing", received, accepted)
    assert ", ".join(sorted(accepted)) in message
    _, found, suggestion = message.rpartition("(did you mean ")
    assert not found or suggestion.removesuffix("?)") in accepted


# --- configuration to dataclass --------------------------------------------------------------------------------------


def test_values_become_the_dataclass() -> None:
    config = {"speed": 1.5, "sizes": [1, 2]}
    assert from_config(Options, config, "thing") == Options(1.5, (1, 2))
    assert from_config(Options, {"speed": 2, "limit": 3}, "thing") == Options(2.0, limit=3)
    assert from_config(Options, {"speed": 2.0, "limit": None}, "thing") == Options(2.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sped": 1.0}, "unknown thing option 'sped': choose from limit, sizes, speed (did you mean speed?)"),
        ({"speed": -1.0}, "thing: speed -1.0 must not be negative"),
        ({"speed": "fast"}, "thing option speed is 'fast': expected a number"),
        ({"speed": True}, "thing option speed is True: expected a number"),
        ({"speed": 1.0, "sizes": [1, 2.5]}, "thing option sizes is (1, 2.5): expected a list of whole numbers"),
        ({"speed": 1.0, "sizes": 3}, "thing option sizes is 3: expected a list of whole numbers"),
        ({"speed": 1.0, "limit": "all"}, "thing option limit is 'all': expected a whole number or null"),
        ({}, "thing: "),
    ],
)
def test_bad_values_are_the_users_to_mend(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_config(Options, values, "thing")
    assert str(caught.value).startswith(message)


# --- where outputs go ------------------------------------------------------------------------------------------------


def test_an_output_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    assert list(output_folder(tmp_path / "a" / "b").iterdir()) == []
    assert output_file(tmp_path / "c" / "d.npy") == tmp_path / "c" / "d.npy"
    assert list((tmp_path / "c").iterdir()) == []


def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "folder", Path("/proc/nowhere")):
        with pytest.raises(UserError, match=rf"out '{path}' cannot be written to \(.+\): expected a folder"):
            output_folder(path)
    with pytest.raises(UserError, match=r"cache '.*' is a folder: expected a file"):
        output_file(tmp_path, "cache")


# --- commands --------------------------------------------------------------------------------------------------------


def test_options_reach_the_program(run: Run) -> None:
    code, config, error = run("collect", "env=push", "episodes=3", "env.distractors=true", "out=here")
    assert (code, error) == (0, "")
    assert config is not None
    assert (config["episodes"], config["env"]["distractors"], config["out"]) == (3, True, "here")


@pytest.mark.parametrize("name", ["photo (1).png", "café.png", "a,b=c.png"])
def test_what_the_advice_on_quotes_says_works(run: Run, name: str) -> None:
    code, config, _ = run("run", f"goal='{name}'")
    assert code == 0
    assert config is not None and config["goal"] == name


def test_outputs_are_filed_under_the_environment(run: Run) -> None:
    _, push, _ = run("collect", "env=push")
    _, cartpole, _ = run("collect", "env=dm_control", "env.domain=cartpole", "env.task=balance")
    assert push is not None and cartpole is not None
    assert push["out"] == "runs/push/data.zarr"
    assert cartpole["out"] == "runs/cartpole_balance/data.zarr"


def test_nothing_is_written_beside_what_the_program_writes(run: Run, tmp_path: Path) -> None:
    assert run("goal", "env=push")[0] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("run", "env=pussh", ["unknown env 'pussh'", "push, push_two, push_wall, reacher", "did you mean push?"]),
        ("run", "planner=cme", ["unknown planner 'cme'", "cem", "random_shooting", "did you mean cem?"]),
        ("train", "encoder=vit_minni", ["unknown encoder 'vit_minni'", "did you mean vit_mini?"]),
        ("run", "gaol=img.png", ["'gaol=img.png'", "goal", "seed", "did you mean goal?"]),
        ("run", "env.distractor=true", ["'env.distractor=true'", "distractors", "did you mean env.distractors?"]),
        ("run", "planner.options.sample=3", ["'planner.options.sample=3'", "did you mean planner.options.samples?"]),
        ("train", "trainer.stesp=10", ["'trainer.stesp=10'", "steps", "did you mean trainer.steps?"]),
        ("evaluate", "manifest.sed=1", ["'manifest.sed=1'", "did you mean manifest.seed?"]),
        ("collect", "push", ["'push'", "key=value"]),
        ("run", "goal=photo (1).png", ["'goal=photo (1).png'", "quotes", "\"goal='photo (1).png'\""]),
        ("run", "goal=café.png", ["\"goal='café.png'\""]),
        ("run", "goal=a,b.png", ["\"goal='a,b.png'\""]),
    ],
)
def test_a_mistake_ends_in_one_line_with_the_choices(run: Run, name: str, argument: str, expected: list[str]) -> None:
    code, config, error = run(name, argument)
    assert (code, config) == (2, None)
    assert_one_line(error)
    for part in expected:
        assert part in error


def test_one_mistake_among_good_options_is_the_one_named(run: Run) -> None:
    code, _, error = run("run", "env=reacher", "goal=img.png", "env.tolerance=1", "seed=3")
    assert code == 2
    assert "'env.tolerance=1'" in error
    assert "tolerance_rad" in error


def test_a_user_error_in_the_program_is_one_line_too(run: Run) -> None:
    def refuse(config: Config) -> None:
        raise UserError(f"env {config['env']['name']}:\n  cannot be used")

    code, _, error = run("run", main=refuse)
    assert code == 2
    assert error == "error: env push: cannot be used\n"


@pytest.mark.parametrize(
    ("goes_on", "message"),
    [
        (True, "interrupted: what was finished is kept; the same command goes on from there\n"),
        (False, "interrupted: the same command begins anew\n"),
    ],
)
def test_an_interruption_says_what_the_same_command_does(
    run: Run, monkeypatch: pytest.MonkeyPatch, goes_on: bool, message: str
) -> None:
    def interrupt(config: Config) -> None:
        raise KeyboardInterrupt

    shown = io.StringIO()
    monkeypatch.setattr("worldmodel.cli.command.console", Console(file=shown))
    assert run("run", main=interrupt, goes_on=goes_on)[0] == 130
    assert shown.getvalue() == message


def test_a_run_that_failed_keeps_its_own_exit_code(run: Run) -> None:
    def fail(config: Config) -> None:
        raise SystemExit(1)

    assert run("run", main=fail)[0] == 1


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EIO", "EACCES", "EPERM"])
@pytest.mark.parametrize("file", ["runs/[a]/results.json", None])
def test_what_the_operating_system_refuses_is_one_line_and_exit_code_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, file: str | None
) -> None:
    number = getattr(errno, name)

    def refuse(config: Config) -> None:
        raise OSError(number, os.strerror(number), file)

    shown = io.StringIO()
    monkeypatch.setattr("worldmodel.cli.command.console", Console(file=shown, soft_wrap=True))
    code, _, error = run("run", main=refuse)
    assert (code, error) == (1, "")
    assert shown.getvalue() == f"stopped: {f'{file}: ' if file else ''}{os.strerror(number)}\n"


def test_a_full_disk_that_takes_no_message_either_is_exit_code_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def refuse(config: Config) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "results.json")

    monkeypatch.setattr("worldmodel.cli.command.console", Console(file=Full()))
    assert run("run", main=refuse)[0] == 1


def test_another_error_of_the_operating_system_is_a_bug_of_ours(run: Run) -> None:
    with pytest.raises(FileNotFoundError):
        run("run", main=lambda config: Path("missing").read_bytes())


def test_a_bug_of_ours_is_no_user_error(run: Run) -> None:
    with pytest.raises(ZeroDivisionError):
        run("run", main=lambda config: 1 // 0)


def test_the_shell_sees_the_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "envs.goal", "env=pussh"],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_line(done.stderr)
    assert "did you mean push?" in done.stderr


def test_what_to_type_next_has_no_password() -> None:
    typed = ["env=robot", "env.name=arm", "data='https://me:secret@host/data.zarr?key=1'"]
    HydraConfig.instance().set_config(composed("pretrain", typed, with_hydra=True))
    line = next_command("worldmodel.train", data="data")
    assert "secret" not in line and "key" not in line and "data='https://***@host/data.zarr?***'" in line


def test_a_launcher_of_hydra_can_send_a_command_to_another_machine() -> None:
    """Only its name is sent. What the module holds, such as the console, cannot be."""
    sent = cloudpickle.dumps(_quietly(collect.main.__wrapped__))  # type: ignore[attr-defined]
    assert len(sent) < 4000 and callable(cloudpickle.loads(sent))


def test_an_interruption_because_a_rank_has_died_names_the_rank(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, ending_in_one_line("interrupted"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)  # torchrun, to all that are left
        except KeyboardInterrupt:
            raise RankLost("rank 1 of 2 has died") from None
    assert ended.value.code == 1
    assert capsys.readouterr().out.startswith("stopped: rank 1 of 2 has died; ")
