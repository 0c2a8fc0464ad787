"""`python -m worldmodel.features`, and the examples that use what it writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch

from tests.commands import Ended, assert_refused, type_in
from tests.source_tree import ROOT
from tests.worldmodel.data.videos.making import write_hostile
from tests.worldmodel.toy import make_encoder, make_model
from worldmodel.core.spec import one_camera
from worldmodel.data import TrajectoryStore
from worldmodel.encoders.export.rows import RowMaker
from worldmodel.encoders.export.shards import FeatureFolder
from worldmodel.encoders.registry import save_encoder

FEATURES = "worldmodel.features"
SHAPE = ("encoder.width=32", "encoder.depth=1", "encoder.heads=2", "device=cpu", "env=robot", "env.name=toy")
SMALL = (*SHAPE, "out=out", "rows.type=float32", "reading.workers=1")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_square(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """A video of a square that moves to the right, on noise."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        row = int(rng.integers(4, 16))
        for left in range(2, 14, 2):
            picture = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
            picture[row : row + 12, left : left + 12] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        write_square(folder / "red" / f"{number}.mp4", (230, 30, 30), number)
        write_square(folder / "green" / f"{number}.mp4", (30, 230, 30), 100 + number)
    write_hostile(folder / "hostile")
    return folder


def written(folder: Path, *options: object) -> tuple[Ended, FeatureFolder]:
    ended = type_in(folder, FEATURES, *SMALL, *options)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended, FeatureFolder.open(folder / "out")


@torch.no_grad()
def test_features_of_a_recording(tmp_path: Path, toy_store: TrajectoryStore) -> None:
    encoder = make_encoder(seed=3)
    save_encoder(encoder, tmp_path / "encoder", toy_store.spec, {})
    ended, found = written(
        tmp_path, f"data={toy_store.path}", "encoder_from=encoder", "rows.pool=none", "reading.stride=5"
    )
    assert "72 rows of 16 x 32 numbers, 0.1 MB, to out" in ended.out
    assert len(found) == 72 and found.names[3] == "episode 3"
    columns, episode = found.read(), toy_store.episode(3)
    here = columns["item"] == 3
    assert columns["row"][here].tolist() == [39, 44, 49]
    tokens = encoder.encode_frames(torch.from_numpy(episode.images["camera"][::5]))
    torch.testing.assert_close(columns["features"][here], tokens)
    index = found.index
    assert (index["grid"], index["row_shape"], index["encoder"]["kind"]) == ([4, 4], [16, 32], "vit")
    assert index["encoder_hash"] == encoder.identity() and index["data_identity"].startswith(toy_store.identity)


@torch.no_grad()
def test_features_of_a_world_models_encoder(tmp_path: Path, toy_store: TrajectoryStore) -> None:
    model = make_model()
    model.save(tmp_path / "model", {})
    _, found = written(tmp_path, f"data={toy_store.path}", "encoder_from=model", "reading.stride=12")
    assert found.index["encoder_hash"] != model.encoder.identity(), "a world model's checkpoint is in half precision"
    pixels = torch.from_numpy(toy_store.episode(0).images["camera"][::12])
    tokens = model.encoder.encode_frames(pixels).mean(1)
    torch.testing.assert_close(found.read()["features"][:2], tokens, atol=0.02, rtol=0.02)


def test_an_interrupted_command_goes_on(
    tmp_path: Path, toy_store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (*SMALL, f"data={toy_store.path}", "encoder_from=random", "rows.batch_size=2")
    (tmp_path / "whole").mkdir(), (tmp_path / "broken").mkdir()
    assert type_in(tmp_path / "whole", FEATURES, *given).code == 0
    encoded, rows = [], RowMaker.rows

    def interrupted(self: RowMaker, pieces: Any) -> Any:
        encoded.append(len(pieces))
        if len(encoded) in (4, 9):
            raise KeyboardInterrupt
        return rows(self, pieces)

    monkeypatch.setattr(RowMaker, "rows", interrupted)
    for _ in range(2):
        ended = type_in(tmp_path / "broken", FEATURES, *given)
        assert ended.code == 130
        assert "interrupted: what was finished is kept; the same command goes on from there" in ended.out
    assert type_in(tmp_path / "broken", FEATURES, *given).code == 0
    assert len(encoded) == 12 + 2, "no batch but those that were interrupted is encoded twice"
    whole, broken = ({p.name: p.read_bytes() for p in (tmp_path / n / "out").iterdir()} for n in ("whole", "broken"))
    assert whole == broken
    again = type_in(tmp_path / "broken", FEATURES, *given)
    assert again.code == 0 and len(encoded) == 14 and "312 rows" in again.out
    other = type_in(tmp_path / "broken", FEATURES, *given, "seed=1")
    assert_refused(other, "out holds features with encoder_hash=")


def test_videos_are_classified_by_their_features(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, found = written(
        tmp_path, f"data={videos}", "encoder_from=random", "rows.per=clip", "rows.pool=none", "rows.clip_frames=6",
        "reading.size=32",
    )  # fmt: skip
    assert "12 videos of" in ended.out and "files are left out" in " ".join(ended.out.split())
    assert len(found) == 12 and found.index["row_shape"] == [48, 32]
    assert {Path(name).parent.name for name in found.names} == {"green", "red"}
    assert example("classify_features").classify(tmp_path / "out") == 1.0
    said = capsys.readouterr().out
    assert "4 of 4 held-out videos are classified correctly (32 features)" in said
    assert "the largest class has 2 of them: green, red" in said


def test_images_are_reconstructed_from_features(tmp_path: Path, toy_store: TrajectoryStore) -> None:
    written(tmp_path, f"data={toy_store.path}", "encoder_from=pixels", "rows.pool=none")
    run = example("reconstruct_from_features").reconstruct
    psnr, of_mean = run(tmp_path / "out", toy_store.path, tmp_path / "out.png", steps=150, batch=32)
    assert psnr > of_mean + 1
    assert (tmp_path / "out.png").stat().st_size > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("encoder_from=nowhere",), "no encoder at nowhere"),
        (("encoder_from=random", "rows.per=day"), "unknown per 'day': choose from clip, frame, tubelet"),
        (("encoder_from=random", "rows.per=clip", "rows.clip_frames=3"), "clip_frames 3: expected a multiple of 2"),
        (("encoder_from=random", "reading.rate_hz=5"), "reading.rate_hz 5 is for videos: expected reading.stride"),
        (("encoder_from=random", "reading.size=16"), "reading.size 16 is for videos"),
        (("encoder_from=random", "reading.camera=top"), "unknown camera 'top': choose from camera"),
        (("encoder_from=random", "shard_mb=0"), "shard_mb 0: expected at least 0, and 1 to 65536"),
        (("encoder_from=push",), "push was made for pictures of 64 x 64, not of 32 x 32"),
        (("encoder_from=random", "data=nowhere.csv"), "nothing is at nowhere.csv"),
    ],
)
def test_what_has_no_features(
    tmp_path: Path, toy_store: TrajectoryStore, options: tuple[str, ...], message: str
) -> None:
    assert_refused(type_in(tmp_path, FEATURES, f"data={toy_store.path}", *SMALL, *options), message)
    assert list(tmp_path.iterdir()) == []


def test_the_size_of_videos_is_that_of_the_encoder(tmp_path: Path, videos: Path) -> None:
    save_encoder(make_encoder(), tmp_path / "encoder", one_camera(32), {})
    _, found = written(tmp_path, f"data={videos / 'red'}", "encoder_from=encoder", "reading.rate_hz=5")
    assert found.index["image_size"] == [32, 32] and len(found) == 6 * 3
    assert found.read()["time_s"][:3].tolist() == pytest.approx([0, 0.2, 0.4])
