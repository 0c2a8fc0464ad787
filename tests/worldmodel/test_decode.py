"""`python -m worldmodel.decode`: what it leaves, how it goes on, and how it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.commands import Ended, assert_refused, type_in
from tests.worldmodel.toy import MODEL, SPEC, make_model
from worldmodel.core.spec import one_camera
from worldmodel.data import TrajectoryStore
from worldmodel.models.decoder.decoder import load_decoder
from worldmodel.models.decoder.training import DecoderTask
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.registry import load_model

DECODE = "worldmodel.decode"
SMALL = (
    "device=cpu",
    "env=robot",
    "env.name=toy",
    "held_out_fraction=0.2",
    "decoding.frames=150",
    "decoding.held_out_frames=40",
    "decoding.squares=8",
    "network.width=16",
    "network.depth=1",
    "network.hidden_width=16",
    "trainer.steps=40",
    "trainer.batch_size=16",
    "trainer.learning_rate=1e-2",
    "trainer.precision=fp32",
    "trainer.evaluate_every=20",
    "trainer.log_every=5",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model().save(folder, {})
    return folder


def decode(folder: Path, store: TrajectoryStore, model: Path, *options: str) -> Ended:
    return type_in(folder, DECODE, f"data={store.path}", "cache=frames.npy", f"checkpoint={model}", *SMALL, *options)


def test_it_leaves_a_decoder_of_that_model_and_says_how_good_it_is(
    toy_store: TrajectoryStore, model: Path, tmp_path: Path
) -> None:
    ended = decode(tmp_path, toy_store, model)
    assert (ended.code, ended.err) == (0, ""), ended
    folder = tmp_path / "runs" / "toy" / "decoder"
    load_decoder(folder, load_model(str(model), torch.device("cpu")))
    config = json.loads((folder / "config.json").read_text())
    assert config["kind"] == "decoder" and config["provenance"]["store"] == toy_store.identity
    figures = config["provenance"]["held_out"]
    assert figures["psnr"] > figures["psnr_mean_image"] > 10
    for words in (
        f"held-out images: PSNR {figures['psnr']:.1f} dB; the mean image {figures['psnr_mean_image']:.1f} dB",
        "decoder: runs/toy/decoder",
        'RobotController(..., decoder="runs/toy/decoder", verify=0.1)',
    ):
        assert words in ended.out
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "psnr" in entry] == [19, 39]

    again = decode(tmp_path, toy_store, model)
    assert again.code == 0 and "already finished: runs/toy/decoder" in again.out
    refused = decode(tmp_path, toy_store, model, "network.width=24")
    assert_refused(refused, "holds a run with network.width=16, this command asks for 24")


def test_an_interrupted_training_ends_like_an_unbroken_one(
    toy_store: TrajectoryStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decode(tmp_path, toy_store, model, "out=unbroken").code == 0
    whole = DecoderTask.loss

    def interrupted(self: DecoderTask, step: int) -> dict[str, torch.Tensor]:
        if step == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(DecoderTask, "loss", interrupted)
        ended = decode(tmp_path, toy_store, model, "out=broken")
    assert ended.code == 130 and "the same command goes on from there" in ended.out
    assert not (tmp_path / "broken" / "config.json").exists()
    ended = decode(tmp_path, toy_store, model, "out=broken")
    assert ended.code == 0 and "going on at step 14 of 40" in ended.out
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("checkpoint=nowhere",), "unknown checkpoint 'nowhere'"),
        (("data=nowhere.zarr",), "no recording at nowhere.zarr"),
        (("held_out_fraction=0.0",), "held_out_fraction leaves no held-out episode"),
        (("decoding.frames=0",), "frames, held_out_frames and squares must be at least 1"),
        (("decoding.anywhere=0.0",), "anywhere 0.0 must be above 0"),
        (("network.patch_size=0",), "every size must be at least 1"),
        (("network.hidden_width=100000000",), "takes about"),
        (("trainer.batch_size=1000000000",), "trainer.batch_size=1000000000 with decoding.squares=8 takes"),
        (("decoding.squares=1000000000",), "trainer.batch_size=16 with decoding.squares=1000000000 takes"),
        (("trainer.precision=fp8",), "unknown precision 'fp8'"),
        (("out=/proc/nowhere",), "out '/proc/nowhere' cannot be written to"),
        (("out=3",), "decode option out is 3: expected text"),
    ],
)
def test_what_cannot_be_trained(
    toy_store: TrajectoryStore, model: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    assert_refused(decode(tmp_path, toy_store, model, *options), message)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_of_other_cameras_is_refused(toy_store: TrajectoryStore, tmp_path: Path) -> None:
    KeypointModel(dataclasses.replace(SPEC, cameras=one_camera(64)), MODEL).save(tmp_path / "model", {})
    (tmp_path / "here").mkdir()
    ended = decode(tmp_path / "here", toy_store, tmp_path / "model")
    assert_refused(ended, "was made for cameras camera 64 x 64, but recording")
    assert list((tmp_path / "here").iterdir()) == []
