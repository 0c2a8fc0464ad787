"""Videos become episodes without actions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.worldmodel.data.videos.making import number_of, write_audio, write_video
from worldmodel.core.errors import UserError
from worldmodel.data import TrajectoryStore
from worldmodel.data.__main__ import main
from worldmodel.data.formats.source import FormatError

Import = Callable[..., TrajectoryStore]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Videos of 24 frames at 12 per second and 20 at 8, in other sizes and containers, and files that are none."""
    write_video(tmp_path / "videos" / "a10.mp4")
    write_video(tmp_path / "videos" / "a9" / "b.webm", frames=20, rate=8, size=(64, 48), codec="libvpx-vp9")
    write_audio(tmp_path / "videos" / "sound.mp4")
    (tmp_path / "videos" / "text.avi").write_text("no video")
    return tmp_path / "videos"


def test_videos_of_every_rate_and_size_are_sampled_as_a_player_shows_them(
    tmp_path: Path, videos: Path, import_from: Import
) -> None:
    store = import_from("video", videos, tmp_path / "clips.zarr", rate_hz=4.0, size=[16])
    assert (store.num_episodes, store.spec.env, store.spec.control_step_s) == (2, "videos", 0.25)
    assert store.spec.only_camera.shape == (16, 16, 3)
    assert (store.spec.action.names, store.spec.action.low, store.spec.action.high) == (("none",), (0.0,), (0.0,))
    assert store.spec.proprio_size == store.spec.state_size == 0
    # In the order of the names, a9 before a10. Two and a half seconds, and two.
    for index, (rows, every) in enumerate([(10, 2), (8, 3)]):
        episode = store.episode(index)
        assert [number_of(picture) for picture in episode.images["camera"]] == [every * row for row in range(rows)]
        assert episode.action.shape == (rows, 1) and not episode.action.any()


def test_a_single_video_keeps_its_rate(tmp_path: Path, import_from: Import) -> None:
    store = import_from("video", write_video(tmp_path / "one.mp4"), tmp_path / "one.zarr")
    assert (store.num_rows, store.spec.control_step_s, store.spec.env) == (24, 1 / 12, "one")
    assert [number_of(picture) for picture in store.episode(0).images["camera"]] == list(range(24))


def test_a_list_names_the_videos(tmp_path: Path, videos: Path, import_from: Import) -> None:
    (tmp_path / "list.txt").write_text("videos/a10.mp4 3\nvideos/lost.mp4 4\n")
    assert import_from("video", tmp_path / "list.txt", tmp_path / "clips.zarr").num_episodes == 1
    (videos / "other.txt").write_text(f"{write_video(tmp_path / 'elsewhere.mp4')} 1\n")
    assert import_from("video", videos / "other.txt", tmp_path / "other.zarr").num_episodes == 1


def test_what_is_left_out_is_told(tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "video", str(videos), str(tmp_path / "x.zarr"), "--rate", "4", "--size", "16"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "the action is none and always zero; 2 of 4 files cannot be read and are left out" in told
    assert "2 episodes, 18 observations and 16 steps" in told


def test_mistakes_get_one_line(tmp_path: Path, videos: Path, import_from: Import) -> None:
    out = tmp_path / "out.zarr"
    with pytest.raises(FormatError, match=r"has 12 frames per second, the first video has 8: give --rate"):
        import_from("video", videos, out)
    with pytest.raises(UserError, match=r"--rate -1: expected frames per second, above 0 and at most 1000"):
        import_from("video", videos, out, rate_hz=-1.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=r"has no video: expected files of \.avi, "):
        import_from("video", tmp_path / "empty", out)
    with pytest.raises(FormatError, match=r"has no video that can be read: .*text\.avi is no MP4"):
        import_from("video", videos / "text.avi", out)
    assert not out.exists()


def test_other_videos_do_not_continue_an_import(tmp_path: Path, import_from: Import) -> None:
    place = tmp_path / "one.mp4"
    import_from("video", write_video(place), tmp_path / "one.zarr")
    assert import_from("video", place, tmp_path / "one.zarr").num_rows == 24
    with pytest.raises(UserError):
        import_from("video", write_video(place, seed=3), tmp_path / "one.zarr")
    assert np.array_equal(TrajectoryStore.open(tmp_path / "one.zarr").column("action"), np.zeros((24, 1)))
