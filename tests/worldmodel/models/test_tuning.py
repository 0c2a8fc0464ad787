"""Which part of an encoder learns together with what is trained on it."""

from __future__ import annotations

import pytest

from tests.worldmodel.toy import make_encoder
from worldmodel.core.errors import UserError
from worldmodel.encoders.pixels import PixelConfig, PixelPatches
from worldmodel.models.tuning import TuningConfig


def learning(encoder: str, depth: int = 3) -> set[str]:
    network = make_encoder(depth=depth)
    chosen = TuningConfig(encoder).unfreeze(network)
    named = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert len(chosen) == len(named)
    return {".".join(name.split(".")[:2]) for name in named}


def test_the_last_blocks_and_the_norm_learn() -> None:
    assert learning("last:2") == {"blocks.1", "blocks.2", "norm.weight", "norm.bias"}
    assert learning("all") == {"tubelet.weight", "tubelet.bias", "blocks.0", *learning("last:2")}
    assert learning("none") == set() and not TuningConfig().is_on


@pytest.mark.parametrize("encoder", ["some", "last:0", "last:-1", "last:2 ", "last", "1"])
def test_another_part(encoder: str) -> None:
    with pytest.raises(ValueError, match="is unknown: choose from none, last:N and all"):
        TuningConfig(encoder)
    with pytest.raises(ValueError, match=r"rate 0.0: expected a number above 0 and at most 1"):
        TuningConfig(rate=0.0)


def test_encoders_that_cannot_be_tuned() -> None:
    with pytest.raises(UserError, match=r"tuning.encoder=all with an encoder of kind pixels: expected a vision"):
        TuningConfig("all").require_fit(PixelPatches(PixelConfig()))
    with pytest.raises(UserError, match=r"tuning.encoder=last:4: the encoder has 3 blocks"):
        TuningConfig("last:4").require_fit(make_encoder(depth=3))
    TuningConfig("none").require_fit(PixelPatches(PixelConfig()))
