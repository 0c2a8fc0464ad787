"""The costs of a step are those of the networks themselves."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.worldmodel.toy import ENCODER, make_clips, make_encoder
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.cost import Stack, costs, encoder_stacks
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig

JEPA = JepaConfig(predictor_width=16, predictor_depth=1, predictor_heads=2)
LAYERS, GRID = 2, Grid(4, 4)


@pytest.mark.parametrize("changes", [{}, {"depth": 2, "attention": "factorised", "temporal_depth": 3}])
def test_operations_of_a_forward_pass_are_those_that_torch_counts(changes: dict[str, object]) -> None:
    encoder, clips = make_encoder(**changes), make_clips(batch=1)
    config = encoder.config
    # In bf16, since torch does not count its fused attention on a CPU, which float32 uses.
    with FlopCounterMode(display=False) as counted, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        encoder(clips)
    embedding = 2 * 32 * 3 * config.tubelet_frames * config.patch_size**2 * config.width
    ours = embedding + sum(stack.operations for stack in encoder_stacks(config, LAYERS, GRID.tokens))
    assert ours == pytest.approx(counted.get_total_flops(), rel=1e-6)


def test_parameters_and_their_memory_are_those_of_the_networks() -> None:
    context, target, predictor, whole = costs(ENCODER, JEPA, 3, LAYERS, GRID, [0.5, 0.25])
    jepa = Jepa(ENCODER, JEPA)

    def size(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert context.parameters == target.parameters == size(jepa.encoder)
    assert predictor.parameters == size(jepa.predictor)
    assert whole.parameters == size(jepa)
    assert (context.parameter_bytes, target.parameter_bytes) == (16 * size(jepa.encoder), 4 * size(jepa.encoder))
    assert target.activation_bytes == 0


def test_pixels_as_targets_need_no_target_encoder() -> None:
    features, pixels = (
        costs(ENCODER, dataclasses.replace(JEPA, targets=targets), 1, LAYERS, GRID, [0.5])
        for targets in ("layer_norm", "pixels")
    )
    assert pixels[0] == features[0]
    assert (features[1].operations > 0) and pixels[1].operations == 0
    assert pixels[2].parameters > features[2].parameters and pixels[2].operations > features[2].operations


def test_costs_follow_what_is_computed() -> None:
    def context(visible: float, batch: int = 1, **changes: object) -> tuple[float, float]:
        found = costs(dataclasses.replace(ENCODER, depth=8, **changes), JEPA, batch, LAYERS, GRID, [visible])[0]  # type: ignore[arg-type]
        return found.operations, found.activation_bytes

    assert context(0.5, batch=3) == pytest.approx([3 * cost for cost in context(0.5)])
    assert context(0.25)[0] < context(0.5)[0]
    assert context(0.25, hidden="mask_token") == context(1.0)
    again = context(1.0, checkpointing=True)
    assert again[0] > context(1.0)[0] and again[1] < context(1.0)[1] / 2
    assert context(1.0, attention="factorised", temporal_depth=1)[1] < context(1.0)[1] * 9 / 8


def test_one_token_alone() -> None:
    """By hand: `2 (4 · 4² + 2 · 4 · 8) + 4 · 4`."""
    assert Stack(depth=3, width=4, hidden=8, heads=1, groups=2, tokens=1).operations == 3 * 2 * (2 * (64 + 64) + 16)
