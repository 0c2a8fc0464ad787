"""The V-JEPA objective against its equation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel.toy import ENCODER, make_clips
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.levels import encode_levels, level_blocks
from worldmodel.encoders.jepa.losses import context_weights, layer_normed, tubelet_pixels
from worldmodel.encoders.jepa.masks import LONG_RANGE, SHORT_RANGE, Mask
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig, regularise, standardise, whiten
from worldmodel.encoders.vit import token_coordinates

SMALL = {"predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2}


def make_jepa(positions: str = "sincos", **changes: object) -> Jepa:
    torch.manual_seed(0)
    encoder = type(ENCODER)(**{**ENCODER.__dict__, "positions": positions})
    jepa = Jepa(encoder, JepaConfig(**{**SMALL, **changes}))
    with torch.no_grad():  # as after some training: the two encoders differ
        for parameter in jepa.target.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return jepa


def make_masks(batch: int = 3, frames: int = 2) -> list[Mask]:
    rng = np.random.default_rng(0)
    return [config(batch, frames, Grid(4, 4), rng) for config in (SHORT_RANGE, LONG_RANGE)]


def targets_by_hand(jepa: Jepa, clips: Tensor, kind: str) -> Tensor:
    features = jepa.target(clips).detach()
    features = (features - features.mean(-1, keepdim=True)) / (
        features.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    if kind == "instance":
        features = torch.stack([clip - clip.mean(0) for clip in features])
    if kind != "layer_norm":
        grouped = features.reshape(len(clips), -1, 16, features.shape[-1]).clone()
        for place in range(16):
            grouped[:, :, place] -= grouped[:, :, place].reshape(-1, grouped.shape[-1]).mean(0)
        features = (grouped / grouped.reshape(-1, grouped.shape[-1]).pow(2).mean(0).sqrt()).reshape(features.shape)
    return features


@pytest.mark.parametrize("targets", ["layer_norm", "standardise", "instance"])
@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_the_loss_is_its_equation(targets: str, loss: str) -> None:
    jepa, clips, masks = make_jepa(targets=targets, loss=loss), make_clips(), make_masks()
    wanted = targets_by_hand(jepa, clips, targets)
    per_mask = []
    for mask in masks:
        predicted = jepa.predictor(jepa.encoder(clips, mask.visible), mask, 2, Grid(4, 4)).detach()
        total, count = 0.0, 0
        for clip in range(len(clips)):
            for place, token in enumerate(mask.hidden[clip].tolist()):
                difference = predicted[clip, place] - wanted[clip, token]
                total += float((difference.abs() if loss == "l1" else difference**2).sum())
                count += difference.numel()
        per_mask.append(total / count)
    values = jepa(clips, masks)
    assert values["loss"].item() == pytest.approx(np.mean(per_mask), rel=1e-4)
    assert values["prediction"].item() == values["loss"].item()
    assert values["variance"].item() == values["covariance"].item() == 0.0


def test_with_pixels_as_targets_the_loss_is_that_of_videomae() -> None:
    jepa, clips, (mask, _) = make_jepa(targets="pixels", loss="l2"), make_clips(), make_masks()
    predicted = jepa.predictor(jepa.encoder(clips, mask.visible), mask, 2, Grid(4, 4)).detach()
    assert predicted.shape[-1] == 2 * 8 * 8 * 3
    errors = []
    for clip in range(len(clips)):
        for place, token in enumerate(mask.hidden[clip].tolist()):
            t, row, column = token // 16, token % 16 // 4, token % 4
            part = clips[clip, 2 * t : 2 * t + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].double()
            wanted = (part - part.mean((0, 1, 2))) / part.std((0, 1, 2))
            errors.append((predicted[clip, place] - wanted.flatten()).pow(2).mean())
    values = jepa(clips, [mask])
    assert values["loss"].item() == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)
    values["loss"].backward()
    assert all(p.grad is not None for p in jepa.encoder.parameters())
    assert all(p.grad is None for p in jepa.target.parameters())


def test_tubelets_of_one_colour_are_no_target() -> None:
    assert tubelet_pixels(torch.full((1, 2, 8, 8, 3), 0.3), 2, 8).abs().max() < 1e-3


def test_a_constant_prediction_costs_its_distance_to_the_targets() -> None:
    """A check that needs no second forward pass through the predictor."""
    jepa, clips, masks = make_jepa(targets="layer_norm"), make_clips(), make_masks()[:1]
    with torch.no_grad():
        jepa.predictor.outward.weight.zero_()
        jepa.predictor.outward.bias.fill_(0.25)
    wanted = targets_by_hand(jepa, clips, "layer_norm")
    hidden = torch.stack([row[tokens] for row, tokens in zip(wanted, masks[0].hidden, strict=True)])
    assert jepa(clips, masks)["loss"].item() == pytest.approx(float((0.25 - hidden).abs().mean()), rel=1e-5)


def test_gradients_reach_all_of_encoder_and_predictor_and_nothing_of_the_target() -> None:
    jepa = make_jepa()
    jepa(make_clips(), make_masks())["loss"].backward()
    for part in (jepa.encoder, jepa.predictor):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None and not p.requires_grad for p in jepa.target.parameters())


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_the_predictor_is_asked_for_places_and_never_sees_what_is_hidden(positions: str) -> None:
    jepa, clips, mask = make_jepa(positions), make_clips(), make_masks()[0]
    predicted = jepa.predictor(jepa.encoder(clips, mask.visible), mask, 2, Grid(4, 4))
    assert predicted.shape == (3, mask.hidden.shape[1], 32)
    between = torch.cdist(predicted[0], predicted[0]) + torch.eye(predicted.shape[1])
    assert between.min() > 1e-6, "hidden tokens differ in nothing but their place"
    changed = clips.clone()
    for clip in range(3):
        for t, y, x in token_coordinates(2, Grid(4, 4))[mask.hidden[clip]].tolist():
            changed[clip, 2 * t : 2 * t + 2, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 7
    torch.testing.assert_close(jepa.predictor(jepa.encoder(changed, mask.visible), mask, 2, Grid(4, 4)), predicted)


def test_every_mask_of_a_step_has_a_token_of_its_own_in_turn() -> None:
    jepa, clips, masks = make_jepa(mask_tokens=2), make_clips(), make_masks()
    for number, used in ((0, {0}), (1, {1}), (2, {0}), (3, {1})):
        jepa.zero_grad()
        jepa.predictor(jepa.encoder(clips, masks[0].visible), masks[0], 2, Grid(4, 4), number).sum().backward()
        gradient = jepa.predictor.mask_token.grad
        assert gradient is not None and {token for token in (0, 1) if gradient[token].any()} == used
    jepa.zero_grad()
    jepa(clips, masks)["loss"].backward()
    gradient = jepa.predictor.mask_token.grad
    assert gradient is not None and gradient.flatten(1).any(1).all()
    # With equal tokens, they are as one.
    with torch.no_grad():
        jepa.predictor.mask_token.copy_(torch.ones(1, 1, 16))
    one = make_jepa()
    one.load_state_dict({**jepa.state_dict(), "predictor.mask_token": torch.ones(1, 1, 16)})
    assert torch.equal(one(clips, masks)["loss"], jepa(clips, masks)["loss"])
    with pytest.raises(ValueError, match="mask_tokens 0: expected at least 1"):
        JepaConfig(mask_tokens=0)


def test_the_target_encoder_starts_as_a_copy() -> None:
    torch.manual_seed(0)
    jepa = Jepa(ENCODER, JepaConfig(**SMALL))
    for target, source in zip(jepa.target.parameters(), jepa.encoder.parameters(), strict=True):
        assert torch.equal(target, source)
        assert target.data_ptr() != source.data_ptr()


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.996, 1.0])
def test_the_target_follows_by_its_rule(momentum: float) -> None:
    jepa = make_jepa()
    before = [p.clone() for p in jepa.target.parameters()]
    source = [p.clone() for p in jepa.encoder.parameters()]
    jepa.update_target(momentum)
    for old, theta, new in zip(before, source, jepa.target.parameters(), strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * theta, atol=1e-6, rtol=1e-6)
        if momentum == 1.0:
            assert torch.equal(new, old)
    assert all(torch.equal(a, b) for a, b in zip(source, jepa.encoder.parameters(), strict=True))


def test_standardising_leaves_no_place_means_and_unit_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    place = 5 * torch.randn(1, 1, 16, 8, generator=generator)
    scale = torch.linspace(0.1, 3.0, 8)
    features = (place + scale * torch.randn(6, 2, 16, 8, generator=generator)).flatten(1, 2)
    features[..., 7] = 2.5  # what never changes must not be blown up
    result = standardise(features, frames=2)
    assert result.shape == features.shape
    by_place = result.unflatten(1, (2, 16))
    torch.testing.assert_close(by_place.mean((0, 1)), torch.zeros(16, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(by_place[..., :7].pow(2).mean((0, 1, 2)), torch.ones(7))
    assert by_place[..., 7].abs().max() == 0


def test_whitening_gives_every_direction_the_same_spread_but_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    strong = torch.randn(40, 2, 16, 8, generator=generator) * torch.linspace(1.0, 3.0, 8)
    strong[..., 7] = strong[..., 6] + 1e-4 * strong[..., 7]  # their difference is a direction of noise
    mixed = (strong + 5 * torch.randn(1, 1, 16, 8, generator=generator)).flatten(1, 2)
    result = whiten(mixed, frames=2)
    torch.testing.assert_close(result.unflatten(1, (2, 16)).mean((0, 1)), torch.zeros(16, 8), atol=1e-4, rtol=0)
    variances = torch.linalg.eigvalsh(torch.cov(result.flatten(0, 1).T))
    assert variances[0] < 1e-3 * variances[-1]
    assert variances[1] > 0.98 * variances[-1]
    assert float(result.pow(2).mean()) == pytest.approx(1.0, abs=1e-4)


def test_visible_tokens_count_by_a_linear_map_of_the_context() -> None:
    jepa, clips, masks = make_jepa(visible_weight=0.5, targets="layer_norm"), make_clips(), make_masks()
    canonical = make_clips().flip(1)
    wanted = targets_by_hand(jepa, canonical, "layer_norm")
    visible = []
    for mask in masks:
        mapped = jepa.visible_head(jepa.encoder(clips, mask.visible)).detach()
        chosen = torch.stack([row[tokens] for row, tokens in zip(wanted, mask.visible, strict=True)])
        visible.append(float((mapped - chosen).abs().mean()))
    values = jepa(clips, masks, canonical)
    assert values["visible"].item() == pytest.approx(np.mean(visible), rel=1e-4)
    assert values["loss"].item() == pytest.approx(values["prediction"].item() + 0.5 * np.mean(visible), rel=1e-4)
    assert make_jepa().visible_head is None


def test_vicreg_terms_by_hand() -> None:
    still = torch.tensor([[1.0, 5.0], [-1.0, 5.0]])
    variance, covariance = regularise(still)  # std √2 and 0: hinges 0 and 1 - √1e-4
    assert float(variance) == pytest.approx((1 - math.sqrt(1e-4)) / 2, abs=1e-5)
    assert float(covariance) == 0.0
    together = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    variance, covariance = regularise(together)  # covariance 2 in both off-diagonal places: (4 + 4) / 2
    assert float(variance) == 0.0
    assert float(covariance) == pytest.approx(4.0)


def test_regularisation_enters_with_its_weights() -> None:
    jepa, clips, masks = make_jepa(variance_weight=0.5, covariance_weight=0.04), make_clips(), make_masks()
    values = jepa(clips, masks)
    terms = [regularise(jepa.encoder(clips, mask.visible).flatten(0, 1)) for mask in masks]
    variance, covariance = (torch.stack(term).mean().item() for term in zip(*terms, strict=True))
    assert variance > 0
    assert covariance > 0
    assert values["loss"].item() == pytest.approx(values["prediction"].item() + 0.5 * variance + 0.04 * covariance)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loss": "l3"}, "l1, l2"),
        ({"targets": "raw"}, "standardise"),
        ({"targets": "pixels", "levels": 2}, "pixels need 1 and 0"),
        ({"predictor_heads": 5}, "predictor_width"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        JepaConfig(**{**SMALL, **changes})


# --- V-JEPA 2.1 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("power", "expected"), [(1.0, [0.5, 1.0, 1 / math.sqrt(2)]), (0.0, [1.0, 1.0, 1.0])])
def test_context_tokens_count_less_the_further_they_are_from_what_is_hidden(
    power: float, expected: list[float]
) -> None:
    """2 layers of 1 x 3 tokens. Hidden: the first token of either layer, and then only that of the first layer."""
    mask = Mask(torch.tensor([[2, 4]]), torch.tensor([[0, 3]]))
    assert context_weights(mask, 2, Grid(1, 3), power)[0].tolist() == pytest.approx(expected[:2])
    diagonal = Mask(torch.tensor([[4]]), torch.tensor([[0]]))  # one layer and one column away
    assert context_weights(diagonal, 2, Grid(1, 3), power)[0].tolist() == pytest.approx(expected[2:])


def test_the_published_code_takes_the_root_of_the_distance() -> None:
    mask = make_masks()[0]
    paper, code = (context_weights(mask, 2, Grid(4, 4), power) for power in (1.0, 0.5))
    torch.testing.assert_close(code.pow(2), paper)
    assert float(paper.max()) <= 1.0


def test_the_loss_on_context_tokens_is_its_equation() -> None:
    changes = {"targets": "layer_norm", "context_weight": 0.5, "context_distance_power": 1.0}
    jepa, clips, masks = make_jepa(**changes), make_clips(), make_masks()
    wanted = targets_by_hand(jepa, clips, "layer_norm")
    places = token_coordinates(2, Grid(4, 4)).float()
    terms = []
    for mask in masks:
        _, seen = jepa.predictor.predict_all(jepa.encoder(clips, mask.visible), mask, 2, Grid(4, 4))
        total, count = 0.0, 0
        for clip in range(len(clips)):
            for number, token in enumerate(mask.visible[clip].tolist()):
                nearest = min(float((places[token] - places[other]).norm()) for other in mask.hidden[clip].tolist())
                error = (seen[clip, number].detach() - wanted[clip, token]).abs()
                total, count = total + float(error.sum()) / nearest, count + len(error)
        terms.append(total / count)
    values = jepa(clips, masks)
    assert values["context"].item() == pytest.approx(np.mean(terms), rel=1e-4)
    assert values["loss"].item() == pytest.approx(values["prediction"].item() + 0.5 * np.mean(terms), rel=1e-4)
    assert "context" not in make_jepa()(clips, masks)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.2, 0.0), (0.3, 0.5), (0.4, 1.0), (1.0, 1.0)])
def test_the_loss_on_context_tokens_sets_in_linearly(progress: float, share: float) -> None:
    config = JepaConfig(**SMALL, context_weight=0.5, context_warmup=(0.2, 0.4))
    assert config.context_weight_at(progress) == pytest.approx(0.5 * share)
    jepa = make_jepa(context_weight=0.5, context_warmup=(0.2, 0.4))
    values = jepa(make_clips(), make_masks(), None, progress)
    expected = values["prediction"] + 0.5 * share * values["context"]
    torch.testing.assert_close(values["loss"], expected)


def test_the_levels_are_those_of_the_published_models() -> None:
    assert level_blocks(12, 4) == (2, 5, 8, 11)
    assert level_blocks(24, 4) == (5, 11, 17, 23)
    assert level_blocks(40, 4) == (9, 19, 29, 39)
    assert level_blocks(3, 1) == (2,)


def make_deep(**changes: object) -> Jepa:
    torch.manual_seed(0)
    encoder = type(ENCODER)(**{**ENCODER.__dict__, "depth": 4})
    return Jepa(encoder, JepaConfig(**{**SMALL, "targets": "layer_norm", "levels": 2, **changes}))


def test_levels_are_the_outputs_of_their_blocks() -> None:
    jepa, clips = make_deep(), make_clips()
    features = encode_levels(jepa.encoder, clips, None, 2)
    assert features.shape == (3, 32, 64)
    torch.testing.assert_close(features[..., 32:], jepa.encoder(clips))
    blocks = jepa.encoder.blocks
    jepa.encoder.blocks = blocks[:2]
    jepa.encoder.norm, norm = torch.nn.Identity(), jepa.encoder.norm
    torch.testing.assert_close(features[..., :32], jepa.encoder(clips))
    jepa.encoder.blocks, jepa.encoder.norm = blocks, norm
    assert not any(block._forward_hooks for block in blocks), "hooks do not stay"


def test_several_levels_are_predicted_by_the_same_equation() -> None:
    jepa, clips, masks = make_deep(), make_clips(), make_masks()[:1]
    raw = encode_levels(jepa.target, clips, None, 2).detach()
    parts = [part / 1.0 for part in raw.chunk(2, dim=-1)]
    normed = [(p - p.mean(-1, keepdim=True)) / (p.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() for p in parts]
    wanted = torch.cat(normed, dim=-1)
    torch.testing.assert_close(layer_normed(raw, 2), wanted)
    context = encode_levels(jepa.encoder, clips, masks[0].visible, 2)
    predicted = jepa.predictor(context, masks[0], 2, Grid(4, 4))
    hidden = torch.stack([row[tokens] for row, tokens in zip(wanted, masks[0].hidden, strict=True)])
    values = jepa(clips, masks)
    torch.testing.assert_close(values["loss"], (predicted - hidden).abs().mean())
    assert values["features"].shape == (3, 32, 32), "health is measured on the encoder's output"


def test_gradients_reach_everything_with_all_terms() -> None:
    jepa = make_deep(context_weight=0.5, visible_weight=0.1, variance_weight=1.0)
    jepa(make_clips(), make_masks())["loss"].backward()
    for part in (jepa.encoder, jepa.predictor):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_an_encoder_has_no_more_levels_than_blocks() -> None:
    with pytest.raises(ValueError, match=r"jepa.levels 2: expected at most the encoder's number of blocks, 1"):
        make_jepa(levels=2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"levels": 0}, "levels 0"),
        ({"context_weight": -1.0}, "context_weight -1.0"),
        ({"context_distance_power": math.inf}, "context_distance_power inf"),
        ({"context_warmup": (0.5, 0.2)}, "context_warmup"),
        ({"context_warmup": (0.5,)}, "context_warmup"),
    ],
)
def test_impossible_options_of_the_dense_loss_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        JepaConfig(**{**SMALL, **changes})
