"""What is written to look at is what was recorded."""

from __future__ import annotations

import dataclasses
import gc
import sys
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from worldmodel.data import Episode, TrajectoryStore
from worldmodel.data.__main__ import main
from worldmodel.data.store.durable import WritingStopped
from worldmodel.data.viewing import enlarged, enlargement, frames_per_s, write_video


def smooth(episode: Episode) -> Episode:
    """With pictures that video keeps: each of one grey, no two neighbours alike."""
    grey = (np.arange(len(episode.images["camera"])) * 37 % 200 + 20).astype(np.uint8)
    pictures = np.broadcast_to(grey[:, None, None, None], episode.images["camera"].shape).copy()
    return dataclasses.replace(episode, images={"camera": pictures})


def test_a_video_has_each_observation_in_its_place(tmp_path: Path, make_episode, spec) -> None:
    odd = dataclasses.replace(spec, control_step_s=1 / 3)
    episode = smooth(make_episode(3, 40, odd))
    write_video(episode, odd, tmp_path / "episode.mp4")
    with av.open(str(tmp_path / "episode.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 3
        frames = list(container.decode(stream))
    assert len(frames) == 41
    for number, frame in enumerate(frames):
        assert frame.pts * frame.time_base == Fraction(number, 3)
        picture = frame.to_ndarray(format="rgb24")
        assert picture.shape == (256, 256, 3)
        assert np.abs(picture.astype(int) - int(episode.images["camera"][number, 0, 0, 0])).max() <= 4
    assert [file.name for file in tmp_path.iterdir()] == ["episode.mp4"]


@pytest.mark.parametrize(
    ("side", "factor"), [(8, 32), (64, 4), (96, 3), (255, 2), (256, 1), (257, 2), (85, 4), (1, 256)]
)
def test_pictures_are_enlarged_by_a_whole_number(side: int, factor: int) -> None:
    assert enlargement(side, side) == factor


def test_each_pixel_is_repeated() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarged(picture, 3)
    assert large.shape == (6, 6, 3)
    np.testing.assert_array_equal(large[::3, ::3], picture)
    np.testing.assert_array_equal(large[2::3, 2::3], picture)


@pytest.mark.parametrize(("step_s", "rate"), [(0.1, 10), (1 / 3, 3), (1 / 30, 30), (0.04, 25), (5.0, Fraction(1, 5))])
def test_the_rate_is_that_of_the_recording(spec, step_s: float, rate: Fraction) -> None:
    assert frames_per_s(dataclasses.replace(spec, control_step_s=step_s)) == rate


def test_view_writes_a_file_with_a_name(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["view", str(store.path), "--episode", "1"]) == 0
    assert "episode_1.mp4  (8 frames, 10 per second)" in capsys.readouterr().out
    assert imageio_ffmpeg.count_frames_and_secs("episode_1.mp4")[0] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episode", "5"], "episode 5: {store} has 5 episodes, the first is number 0"),
        (["--episode", "-1"], "episode -1: "),
        (["--out", "episode.gif"], "out 'episode.gif': expected a name that ends in .mp4"),
        (["--rerun", "episode.mp4"], "rerun 'episode.mp4': expected a name that ends in .rrd"),
        (["--out", "data.zarr/zarr.json/episode.mp4"], "cannot be written to"),
        (["--out", "s3://bucket/episode.mp4"], "is an address, which is only read"),
        (["--rerun", "episode.rrd", "--out", "episode.mp4"], "pip install -c constraints.txt -e '.[view]'"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_leaves_nothing(
    store, tmp_path, monkeypatch, capsys, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "rerun", None)  # as if it were not installed
    with pytest.raises(SystemExit) as ended:
        main(["view", str(store.path), *arguments])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.format(store=store.path) in line
    assert [file.name for file in tmp_path.iterdir()] == ["data.zarr"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fault", ["ffmpeg dies", "ffmpeg stops early"])
def test_a_video_that_is_cut_short_is_not_left_behind(tmp_path, make_episode, spec, monkeypatch, fault: str) -> None:
    whole = imageio_ffmpeg.write_frames

    def write_frames(*arguments, output_params, **options):
        more = ["-no_such_option", "1"] if fault == "ffmpeg dies" else ["-frames:v", "3"]
        return whole(*arguments, output_params=[*more, *output_params], **options)

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", write_frames)
    (tmp_path / "episode.mp4").write_bytes(b"an earlier one")
    with pytest.raises(WritingStopped, match=r"episode\.mp4' cannot be written to") as error:
        write_video(make_episode(3, 40), spec, tmp_path / "episode.mp4")
    assert "\n" not in str(error.value)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"an earlier one"]
    del error
    gc.collect()  # imageio-ffmpeg leaves its pipe to an ffmpeg that died to the collector, which warns


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_rerun_recording_holds_what_was_recorded(store: TrajectoryStore, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    chunks = pytest.importorskip("rerun.chunk")
    assert main(["view", str(store.path), "--episode", "1", "--rerun", str(tmp_path / "episode.rrd")]) == 0
    episode, found = store.episode(1), {}
    for chunk in chunks.RrdReader(tmp_path / "episode.rrd").stream().to_chunks():
        if not chunk.is_static:
            table = chunk.to_record_batch().to_pydict()
            found[chunk.entity_path.lstrip("/")] = table
    for name, values in (("action", episode.action[:-1]), ("proprio", episode.proprio), ("state", episode.state)):
        np.testing.assert_array_equal(found[name]["Scalars:scalars"], values)
        seconds = [moment.total_seconds() for moment in found[name]["clock"]]
        np.testing.assert_allclose(seconds, np.arange(len(values)) * 0.1, atol=1e-6)
    np.testing.assert_array_equal(
        [row[0] for row in found["images/camera"]["Image:buffer"]], episode.images["camera"].reshape(8, -1)
    )
    assert {file.name for file in tmp_path.iterdir()} == {"data.zarr", "episode.rrd"}
