"""`python -m worldmodel.train tuning.encoder=...`: the encoder learns with what is trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import Ended, assert_refused, type_in
from tests.worldmodel.commands import TOY
from tests.worldmodel.toy import TWO_CAMERAS, make_encoder, write_store
from worldmodel.core.checkpoint import weights_hash
from worldmodel.data import TrajectoryStore
from worldmodel.encoders.registry import save_encoder
from worldmodel.models.keypoint.model import KeypointModel
from worldmodel.models.keypoint.tuning import TunedKeypointTask
from worldmodel.models.registry import load_model

TRAIN = "worldmodel.train"
CPU = torch.device("cpu")


@pytest.fixture
def given(tmp_path: Path, toy_store: TrajectoryStore) -> tuple[str, ...]:
    """The options of a training on an encoder of two blocks, which is in the folder `encoder`."""
    save_encoder(make_encoder(depth=2), tmp_path / "encoder", toy_store.spec, {})
    small = ("state.novelty=false", "state.alignment=false", "predictor.heads=1", "variation.every=2")
    return ("device=cpu", *TOY[TRAIN], *small, f"data={toy_store.path}", "cache=c.npy", "encoder_from=encoder")


def trained(folder: Path, given: tuple[str, ...], *options: str, out: str = "model") -> tuple[Ended, KeypointModel]:
    ended = type_in(folder, TRAIN, *given, f"out={out}", *options)
    assert (ended.code, ended.err) == (0, ""), ended
    model = load_model(str(folder / out), CPU)
    assert isinstance(model, KeypointModel)
    return ended, model


def test_the_last_block_is_tuned_and_kept_in_the_checkpoint(tmp_path: Path, given: tuple[str, ...]) -> None:
    ended, model = trained(tmp_path, given, "tuning.encoder=last:1", "tuning.rate=1.0")
    assert "the encoder was tuned (last:1), and encodes all frames again" in ended.out
    before, after = make_encoder(depth=2).half().float().state_dict(), model.encoder.state_dict()
    changed = {name.rpartition(".")[0] for name in before if not torch.allclose(before[name], after[name], atol=1e-3)}
    assert changed and all(name.startswith(("blocks.1", "norm")) for name in changed)
    told = json.loads((tmp_path / "model" / "config.json").read_text())["provenance"]
    assert told["tuning"] == {"encoder": "last:1", "rate": 1.0}
    assert told["encoder_hash"] == make_encoder(depth=2).identity()
    assert told["tuned_encoder_hash"] == weights_hash(model.encoder) != told["encoder_hash"]
    # The states are those of features that the tuned encoder has computed.
    folder = tmp_path / "model" / "cameras" / "camera"
    keys = [
        json.loads((folder / name).read_text())["key"]["encoder"] for name in ("features.json", "tuned.features.json")
    ]
    assert keys[0] == told["encoder_hash"] and keys[1] not in (keys[0], "")


def test_an_interrupted_tuning_goes_on(tmp_path: Path, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("tuning.encoder=all", "state_trainer.checkpoint_every_s=0")
    _, whole = trained(tmp_path, given, *options, out="whole")
    steps, loss = [], TunedKeypointTask.loss

    def interrupted(self: TunedKeypointTask, step: int) -> Any:
        steps.append(step)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return loss(self, step)

    monkeypatch.setattr(TunedKeypointTask, "loss", interrupted)
    assert type_in(tmp_path, TRAIN, *given, "out=broken", *options).code == 130
    _, broken = trained(tmp_path, given, *options, out="broken")
    assert steps == [*range(8), *range(7, 20)]
    assert weights_hash(broken) == weights_hash(whole)


def test_what_is_not_tuned_does_not_name_it(tmp_path: Path, given: tuple[str, ...]) -> None:
    """Runs from before there was tuning go on."""
    _, model = trained(tmp_path, given)
    told = json.loads((tmp_path / "model" / "config.json").read_text())["provenance"]
    assert "tuning" not in told and "tuned_encoder_hash" not in told
    torch.testing.assert_close(model.encoder.state_dict(), make_encoder(depth=2).half().float().state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("tuning.encoder=half",), "encoder 'half' is unknown: choose from none, last:N and all"),
        (("tuning.encoder=last:3",), "tuning.encoder=last:3: the encoder has 2 blocks"),
        (
            ("tuning.encoder=all", "encoder_from=pixels"),
            "with an encoder of kind pixels: expected a vision ",
        ),
        (
            ("tuning.encoder=all", "init_from=push"),
            "tuning.encoder=all with init_from=push: expected none",
        ),
    ],
)
def test_what_cannot_be_tuned(tmp_path: Path, given: tuple[str, ...], options: tuple[str, ...], message: str) -> None:
    assert_refused(type_in(tmp_path, TRAIN, *given, "out=model", *options), message)
    assert not (tmp_path / "model").exists()


def test_several_cameras_and_another_family(tmp_path: Path, given: tuple[str, ...]) -> None:
    write_store(tmp_path / "two.zarr", spec=TWO_CAMERAS)
    two = type_in(tmp_path, TRAIN, *given, "encoder_from=random", "data=two.zarr", "tuning.encoder=all", "out=model")
    assert_refused(two, "tuning.encoder=all with the cameras top, side: expected one camera")
    keypoint = ("state", "robot", "appearance", "predict", "variation")
    kept = [option for option in given if not option.startswith(keypoint)]
    tokens = type_in(tmp_path, TRAIN, *kept, "family=tokens", "tuning.encoder=all", "out=model")
    assert_refused(tokens, "with family=tokens, which imagines the encoder's own tokens: expected family=keypoint, or ")
