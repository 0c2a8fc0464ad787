"""Schedules of the papers, by their published numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from worldmodel.cli.command import as_plain, composed
from worldmodel.core.configs import group_choices
from worldmodel.core.options import from_config
from worldmodel.data.clips import ClipConfig
from worldmodel.encoders.jepa.masks import OfficialMultiBlock
from worldmodel.encoders.jepa.objective import JepaConfig
from worldmodel.encoders.jepa.task import PretrainConfig
from worldmodel.training.schedules import TrainerConfig, learning_rate_at, linear, weight_decay_at


def recipe(name: str, *overrides: str) -> dict[str, Any]:
    """What a recipe describes, by section."""
    config = as_plain(composed("pretrain", [f"recipe={name}", *overrides]))
    kinds = {"clips": ClipConfig, "jepa": JepaConfig, "pretrain": PretrainConfig, "trainer": TrainerConfig}
    return {key: from_config(cls, config[key], key) for key, cls in kinds.items()}


def test_linear_goes_from_start_to_end_and_stays_there() -> None:
    assert [linear(2.0, 1.0, p) for p in (-1, 0, 0.25, 1, 7)] == [2.0, 2.0, 1.75, 1.0, 1.0]


def test_a_constant_learning_rate_has_a_linear_warm_up_and_cooldown() -> None:
    config = TrainerConfig(
        steps=100, batch_size=1, learning_rate=1.0, final_learning_rate=0.1, start_learning_rate=0.5, warmup=0.1,
        cooldown=0.2, schedule="constant", weight_decay=0.0, final_weight_decay=0.0, precision="fp32", evaluate_every=1,
    )  # fmt: skip
    rates = [learning_rate_at(step, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.5 + 0.05 * (step + 1) for step in range(10)])
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([1.0 - 0.9 * (step + 1) / 20 for step in range(20)])


def test_vjepa_by_its_published_configuration() -> None:
    """configs/pretrain/vitl16.yaml of facebookresearch/jepa, with `WarmupCosineSchedule` and `CosineWDSchedule`."""
    trainer = recipe("vjepa")["trainer"]
    warmup, total = 40 * 300, int(1.25 * 300 * 300)
    for step in (0, 5_000, 11_998, 12_000, 50_000, 89_999):
        done = step + 1  # the published schedules are advanced before a step
        if done < warmup:
            rate = 2e-4 + done / warmup * (6.25e-4 - 2e-4)
        else:
            rate = 1e-6 + (6.25e-4 - 1e-6) * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (total - warmup)))
        decay = 0.4 + (0.04 - 0.4) * 0.5 * (1 + math.cos(math.pi * done / total))
        assert learning_rate_at(step, trainer) == pytest.approx(rate, rel=1e-4)
        assert weight_decay_at(step, trainer) == pytest.approx(decay, rel=1e-3)
    assert trainer.schedule_steps == total
    assert trainer.batch_size == 16 * 8 * 24 and trainer.clip_norm == 10


@pytest.mark.parametrize(("name", "peak", "constant"), [("vjepa2", 5.25e-4, 228_000), ("vjepa21", 6e-4, 288_000)])
def test_vjepa2_warms_up_stays_and_cools_down(name: str, peak: float, constant: int) -> None:
    sections = recipe(name)
    trainer, options = sections["trainer"], sections["pretrain"]
    assert trainer.steps == 12_000 + constant + 12_000
    assert learning_rate_at(0, trainer) == pytest.approx(1e-4, rel=1e-3)
    assert learning_rate_at(6_000, trainer) == pytest.approx((1e-4 + peak) / 2, rel=1e-3)
    assert {learning_rate_at(step, trainer) for step in (12_000, 100_000, 11_999 + constant)} == {peak}
    assert learning_rate_at(18_000 + constant, trainer) == pytest.approx(peak / 2, rel=1e-2)
    assert learning_rate_at(trainer.steps - 1, trainer) == pytest.approx(1e-6)
    assert weight_decay_at(0, trainer) == weight_decay_at(trainer.steps, trainer) == 0.04
    assert options.momentum == options.final_momentum == 0.99925
    lengths = [options.length_at(step / trainer.steps) for step in (0, 11_990 + constant, 12_010 + constant)]
    assert lengths == [16, 16, 64] and sections["clips"].frames == 64


def test_the_dense_loss_belongs_to_vjepa21() -> None:
    jepa, options = recipe("vjepa21")["jepa"], recipe("vjepa21")["pretrain"]
    assert (jepa.context_weight, jepa.levels, jepa.predictor_depth) == (0.5, 4, 24)
    assert [jepa.context_weight_at(step / 312_000) for step in (15_000, 22_500, 30_000)] == pytest.approx(
        [0.0, 0.25, 0.5], abs=1e-4
    )
    assert options.image_share == 0.5 and options.image_masks == (OfficialMultiBlock(10, 0.15),)
    others = [recipe(name)["jepa"] for name in ("cpu", "vjepa", "vjepa2")]
    assert all(other.context_weight == 0 and other.levels == 1 for other in others)


@pytest.mark.parametrize("name", ["vjepa", "vjepa2", "vjepa21"])
def test_the_published_recipes_have_the_published_masks(name: str) -> None:
    sections = recipe(name)
    assert sections["pretrain"].masks == (OfficialMultiBlock(8, 0.15), OfficialMultiBlock(2, 0.7))
    assert (sections["jepa"].loss, sections["jepa"].targets, sections["jepa"].predictor_width) == (
        "l1", "layer_norm", 384,
    )  # fmt: skip


def test_the_recipe_of_small_models_is_the_default() -> None:
    assert recipe("cpu") == {
        "clips": ClipConfig(),
        "jepa": JepaConfig(),
        "pretrain": PretrainConfig(),
        "trainer": from_config(TrainerConfig, as_plain(composed("pretrain", []))["trainer"], "trainer"),
    }
    assert group_choices("recipe") == ["cpu", "vjepa", "vjepa2", "vjepa21"]


def test_what_is_typed_overrides_a_recipe() -> None:
    assert recipe("vjepa", "trainer.steps=7", "trainer.batch_size=128")["trainer"].steps == 7
