"""Attention over space, and then over time."""

from __future__ import annotations

import pytest
import torch

from tests.worldmodel.toy import make_clips, make_encoder
from worldmodel.encoders import factorised
from worldmodel.encoders.factorised import are_tubes
from worldmodel.encoders.vit import VisionTransformer

FRAMES, PLACES = 2, 16


@pytest.fixture(params=["sincos", "rotary", "rotary_vjepa2_1"])
def encoder(request: pytest.FixtureRequest) -> VisionTransformer:
    return make_encoder(positions=request.param, attention="factorised", depth=2, temporal_depth=1)


def test_blocks_run_within_frames_and_then_within_places() -> None:
    """With positions that are added, each block is the plain one on the tokens of a frame, or of a place."""
    encoder, clips = make_encoder(attention="factorised", depth=1, temporal_depth=1), make_clips()
    assert len(encoder.blocks) == 2
    entered: list[torch.Tensor] = []
    encoder.blocks[0].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    found = encoder(clips)
    tokens = entered[0].unflatten(0, (3, FRAMES))  # [B, T, P, D]
    after = torch.stack([encoder.blocks[0](tokens[:, t]) for t in range(FRAMES)], dim=1)
    after = torch.stack([encoder.blocks[1](after[:, :, p]) for p in range(PLACES)], dim=2)
    torch.testing.assert_close(found, encoder.norm(after).flatten(1, 2))


def test_masks_and_rows_of_the_batch_are_the_same_attention(
    encoder: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = make_clips()
    tube = torch.cat([torch.arange(3, 9), PLACES + torch.arange(3, 9)]).expand(3, -1)
    everything = torch.arange(FRAMES * PLACES).expand(3, -1)
    wanted = [encoder(clips), encoder(clips, tube)]
    monkeypatch.setattr(factorised, "are_tubes", lambda *_: False)
    for keep, result in zip((everything, tube), wanted, strict=True):
        torch.testing.assert_close(encoder(clips, keep), result)


def test_other_places_in_every_frame_are_encoded_too(encoder: VisionTransformer) -> None:
    """A frame with one visible token attends to it alone, and what is hidden is not seen."""
    clips, keep = make_clips(), torch.tensor([[0, 1, 5, 16, 17, 29]]).expand(3, -1)
    assert not are_tubes(keep, FRAMES, PLACES)
    changed = clips.clone()
    changed[:, :2, 8:16, 16:24] = 0  # token 6
    assert torch.equal(encoder(changed, keep), encoder(clips, keep))
    changed[:, :2, 8:16, 8:16] = 0  # token 5
    assert not torch.equal(encoder(changed, keep), encoder(clips, keep))


@pytest.mark.parametrize(
    ("keep", "wanted"), [([0, 3, 16, 19], True), ([0, 3, 16, 18], False), ([0, 3, 16], False), ([0, 1, 2, 3], False)]
)
def test_tubes_are_told_from_other_masks(keep: list[int], wanted: bool) -> None:
    assert are_tubes(torch.tensor([keep]), FRAMES, PLACES) is wanted
