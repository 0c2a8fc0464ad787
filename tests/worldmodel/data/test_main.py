"""The tools as they are typed."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from zarr.core.buffer import Buffer

from tests.commands import refuse_to_write
from worldmodel.core.spec import ActionSpec
from worldmodel.data import EpisodeWriter, TrajectoryStore
from worldmodel.data.__main__ import main
from worldmodel.data.inspection import contact_sheet, dimensions, oddities
from worldmodel.data.store.durable import DurableLocalStore


def test_inspect_tells_what_is_in_it(store: TrajectoryStore, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sheet = tmp_path / "pictures" / "sheet.png"
    assert main(["inspect", str(store.path), "--sheet", str(sheet)]) == 0
    told = capsys.readouterr().out
    assert "5 episodes of 1 to 40 steps; 101 steps, 0.00 hours at 10 steps per second" in told
    for expected in ("[106, 8, 8, 3]", "uint8", "m/s", "with checksums"):
        assert expected in told
    with Image.open(sheet) as picture:
        assert picture.size == (8 * 98 + 2, 5 * 98 + 2)


def test_inspect_tells_what_is_odd(tmp_path: Path, spec, make_episode, capsys: pytest.CaptureFixture) -> None:
    with EpisodeWriter(tmp_path / "odd.zarr", spec, {"source_rate_hz": 30.0}) as writer:
        for index in range(2):
            episode = make_episode(index)
            episode.images["camera"][:] = 7
            episode.action[:-1] = (0.25, 1.0)
            writer.append(episode)
    assert main(["inspect", str(tmp_path / "odd.zarr")]) == 0
    told = capsys.readouterr().out
    for expected in (
        "odd: action action_0 never changes: it is 0.25 in all rows",
        "odd: pictures of camera never change within an episode",
        "odd: the recording has 10 steps per second, its source said 30",
    ):
        assert expected in told
    assert "outside" not in told


def test_inspect_tells_of_actions_outside_their_bounds(tmp_path: Path, spec, make_episode, capsys) -> None:
    with EpisodeWriter(tmp_path / "data.zarr", spec) as writer:
        writer.append(make_episode(0))
    store = TrajectoryStore.open(tmp_path / "data.zarr")
    store.spec = dataclasses.replace(spec, action=ActionSpec((-0.5, -2.0), (0.5, 2.0), ("m/s", "m/s")))
    (told,) = oddities(store, dimensions(store))
    assert re.fullmatch(r"action action_0 goes from -0\.9\d+ to 0\.9\d+, outside its bounds -0\.5 to 0\.5", told)


HOSTILE = "[/]\x1b]0;owned\x07\x1b[31m[red]\u202egnp.exe"


def test_text_of_others_is_shown_without_what_it_commands(tmp_path: Path, spec, make_episode, capsys) -> None:
    action = dataclasses.replace(spec.action, units=(HOSTILE, "m/s"), names=(HOSTILE, "y"))
    spec = dataclasses.replace(spec, env=HOSTILE, simulator=HOSTILE, options={HOSTILE: HOSTILE}, action=action)
    with EpisodeWriter(tmp_path / "data.zarr", spec, {HOSTILE: HOSTILE}) as writer:
        writer.append(make_episode(0))
    for command in (["inspect"], ["verify"], ["export", "lerobot"]):
        target = [str(tmp_path / "exported")] if command[0] == "export" else []
        assert main([*command, str(tmp_path / "data.zarr"), *target]) == 0
    assert main(["import", "lerobot", str(tmp_path / "exported"), str(tmp_path / "back.zarr")]) == 0
    (tmp_path / "data.zarr/data/action/c.0.0").unlink()
    assert main(["verify", str(tmp_path / "data.zarr")]) == 1
    output = capsys.readouterr()
    for text in (output.out, output.err):
        assert not set(text) & set("\x1b\x07\u202e")
    assert "[/][red]gnp.exe" in output.out


@pytest.mark.parametrize("sheet", ["sheet.foo", "sheet", "http://host/sheet.png"])
def test_a_sheet_that_cannot_be_written_is_refused_first(store: TrajectoryStore, capsys, sheet: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(store.path), "--sheet", sheet])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert not told.out and len(told.err.splitlines()) == 1


def test_inspect_works_before_the_first_episode(tmp_path: Path, spec, capsys: pytest.CaptureFixture) -> None:
    with EpisodeWriter(tmp_path / "empty.zarr", spec):
        pass
    assert main(["inspect", str(tmp_path / "empty.zarr")]) == 0
    assert "0 episodes" in capsys.readouterr().out


def test_statistics_leave_out_the_action_that_was_never_taken(store: TrajectoryStore, make_episode: Callable) -> None:
    episodes = [make_episode(i, n) for i, n in enumerate((20, 7, 33, 1, 40))]
    taken = np.concatenate([e.action[:-1] for e in episodes]).astype(np.float64)
    seen = np.concatenate([e.proprio for e in episodes]).astype(np.float64)
    found = dimensions(store)
    assert [(d.column, d.index, d.unit) for d in found[:3]] == [
        ("action", 0, "m/s"),
        ("action", 1, "m/s"),
        ("proprio", 0, ""),
    ]
    for d, values in zip(found, [*taken.T, *seen.T], strict=True):
        wanted = [values.min(), values.max(), values.mean(), values.std()]
        np.testing.assert_allclose([d.low, d.high, d.mean, d.std], wanted, rtol=1e-5)


def test_a_contact_sheet_shows_beginning_and_end(store: TrajectoryStore) -> None:
    sheet = contact_sheet(store, episodes=2, moments=2)
    assert sheet.shape == (2 * 98 + 2, 2 * 98 + 2, 3)
    last = np.asarray(Image.fromarray(store.episode(4).images["camera"][-1]).resize((96, 96), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(sheet[100:196, 100:196], last)


def test_verify_and_recover_say_what_is_damaged(store: TrajectoryStore, capsys: pytest.CaptureFixture) -> None:
    assert main(["verify", str(store.path)]) == 0
    assert "5 episodes, 106 rows, all as recorded" in capsys.readouterr().out
    (store.path / "data/images/camera/c.3.0.0.0").unlink()
    assert main(["verify", str(store.path)]) == 1
    told = capsys.readouterr().out
    assert "2 of 5 episodes are damaged" in told
    assert f"python -m worldmodel.data recover {store.path}" in told
    assert main(["recover", str(store.path)]) == 0
    assert "3 episodes kept, 2 lost (2, 3)" in capsys.readouterr().out
    assert main(["verify", str(store.path)]) == 0
    assert main(["recover", str(store.path)]) == 0
    assert "nothing had to be set aside" in capsys.readouterr().out


def test_pack_split_and_merge(store: TrajectoryStore, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a, b, both, packed = (str(tmp_path / f"{name}.zarr") for name in ("a", "b", "both", "packed"))
    assert main(["split", str(store.path), a, b, "--fractions", "0.6", "0.4"]) == 0
    assert main(["merge", a, b, both]) == 0
    assert main(["merge", a, b, str(tmp_path / "bare.zarr"), "--without-state"]) == 0
    assert TrajectoryStore.open(tmp_path / "bare.zarr").spec.state_size == 0
    assert main(["pack", both, packed]) == 0
    told = capsys.readouterr().out
    assert f"{both}: 5 episodes" in told
    assert TrajectoryStore.open(packed).num_rows == 106


@pytest.mark.parametrize("moment", ["while the new store is made", "later"])
def test_a_full_disk_is_one_line_and_exit_code_1(
    store: TrajectoryStore, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    whole = DurableLocalStore._write

    def write(self: DurableLocalStore, key: str, value: Buffer) -> None:
        if moment != "later" or key == "data/images/camera/c.0.0.0.0":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(self, key, value)

    monkeypatch.setattr(DurableLocalStore, "_write", write)
    with pytest.raises(SystemExit, match="1"):
        main(["pack", str(store.path), str(tmp_path / "packed.zarr")])
    printed = capsys.readouterr()
    (line,) = printed.out.strip().splitlines()
    assert line.startswith(f"stopped: {tmp_path / 'packed.zarr'} cannot be written to (No space left on device)")
    assert printed.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "are required"),
        (["inspct", "x"], "choose from 'inspect', 'verify'"),
        (["verify", "nowhere.zarr"], "no recording at nowhere.zarr"),
        (["split", "nowhere.zarr", "a"], "--fractions"),
    ],
)
def test_what_cannot_be_used_ends_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_sheet_that_the_disk_has_no_room_for_is_one_line(
    store: TrajectoryStore, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_write(monkeypatch, "sheet.png")
    with pytest.raises(SystemExit, match="1"):
        main(["inspect", str(store.path), "--sheet", str(tmp_path / "sheet.png")])
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == f"stopped: {tmp_path / 'sheet.png'}: No space left on device"
    assert told.err == ""
    assert [file.name for file in tmp_path.iterdir()] == ["data.zarr"]
