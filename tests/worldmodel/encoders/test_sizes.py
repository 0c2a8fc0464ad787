"""Encoders by name, and what they do in training."""

from __future__ import annotations

import pytest
import torch
import yaml

from tests.source_tree import ROOT
from tests.worldmodel.toy import ENCODER, make_clips, make_encoder
from worldmodel.core.options import from_config
from worldmodel.encoders.attention import repeatable
from worldmodel.encoders.vit import EncoderConfig, VisionTransformer, to_unit_range

# Width, depth, heads, hidden size of the MLP, and million parameters, as in the official code.
SIZES = {
    "tiny": (192, 12, 3, 768, 5.63),
    "small": (384, 12, 6, 1536, 21.88),
    "base": (768, 12, 12, 3072, 86.24),
    "large": (1024, 24, 16, 4096, 303.89),
    "huge": (1280, 32, 16, 5120, 631.65),
    "giant": (1408, 40, 22, 6144, 1012.17),
    "gigantic": (1664, 48, 26, 8192, 1843.92),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_name_is_a_size(name: str) -> None:
    values = yaml.safe_load((ROOT / "configs" / "encoder" / f"vit_{name}.yaml").read_text())
    config = from_config(EncoderConfig, values, "encoder")
    with torch.device("meta"):
        encoder = VisionTransformer(config)
    width, depth, heads, hidden, millions = SIZES[name]
    assert (config.patch_size, config.width, config.depth, config.heads) == (16, width, depth, heads)
    assert encoder.blocks[0].mlp[0].out_features == hidden
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_rates_grow_from_the_first_block_to_the_last() -> None:
    encoder = make_encoder(depth=3, drop_path=0.4)
    assert [block.drop_path for block in encoder.blocks] == pytest.approx([0, 0.2, 0.4])


@pytest.mark.parametrize("attention", ["joint", "factorised"])
def test_checkpointing_changes_no_gradient(attention: str) -> None:
    keep = torch.arange(0, 32, 2).expand(3, -1)
    gradients = []
    for checkpointing in (False, True):
        encoder = make_encoder(
            depth=2, temporal_depth=1, positions="rotary", attention=attention, drop_path=0.5,
            checkpointing=checkpointing,
        ).train()  # fmt: skip
        with repeatable(3):
            loss = encoder(make_clips(), keep).square().mean()
        loss.backward()
        gradients.append([p.grad for p in encoder.parameters()])
    for without, again in zip(*gradients, strict=True):
        assert without is not None and again is not None
        torch.testing.assert_close(again, without)


def test_a_mask_token_stands_in_the_place_of_what_is_hidden() -> None:
    encoder, clips = make_encoder(hidden="mask_token", depth=2), make_clips()
    keep = torch.arange(0, 32, 2).expand(3, -1)
    with torch.no_grad():
        encoder.mask_token.fill_(0.3)
    entered: list[torch.Tensor] = []
    encoder.blocks[0].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    found = encoder(clips, keep)
    positions = entered[0][:, 1::2] - 0.3
    torch.testing.assert_close(positions[0], positions[1])
    assert (positions[:, 0] - positions[:, 1]).abs().max() > 0.1
    torch.testing.assert_close(
        entered[0][:, ::2] - encoder.embed(clips)[:, ::2], encoder_positions(encoder, clips)[:, ::2]
    )
    assert found.shape == (3, 16, 32)
    changed = clips.clone()
    changed[:, :2, 0:8, 8:16] = 0  # token 1, which is hidden
    assert torch.equal(encoder(changed, keep), found)
    assert torch.equal(encoder(clips), make_encoder(depth=2)(clips)), "features do not know of it"


def encoder_positions(encoder: VisionTransformer, clips: torch.Tensor) -> torch.Tensor:
    entered: list[torch.Tensor] = []
    hook = encoder.blocks[0].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    encoder(clips)
    hook.remove()
    return entered[-1] - encoder.embed(clips)


def test_single_images_have_a_tubelet_of_their_own() -> None:
    encoder, clips = make_encoder(still_tubelet=True), make_clips()
    images = clips[:, 0]
    assert torch.equal(encoder.encode_frames(images), encoder(images[:, None]))
    assert encoder(clips).shape == (3, 32, 32)
    patch = to_unit_range(images)[:, :8, :8].flatten(1)
    assert encoder.still is not None
    torch.testing.assert_close(encoder.embed(images[:, None])[:, 0], encoder.still(patch))
    assert make_encoder().still is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attention": "sparse"}, "attention 'sparse' is unknown: choose from factorised, joint"),
        ({"hidden": "zero"}, "hidden 'zero' is unknown: choose from drop, mask_token"),
        ({"drop_path": 1.0}, "drop_path 1.0"),
        ({"norm_epsilon": 0.0}, "norm_epsilon 0.0"),
        ({"position_grid": -1}, "position_grid -1"),
        ({"temporal_depth": 0}, "temporal_depth must be at least 1"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EncoderConfig(**{**vars(ENCODER), **changes})  # type: ignore[arg-type]
