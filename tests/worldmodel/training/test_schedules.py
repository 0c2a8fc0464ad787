"""Schedules, also those of the papers by their published numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.cli.command import as_plain, composed
from worldmodel.core.configs import group_choices
from worldmodel.core.options import from_config
from worldmodel.data.clips import ClipConfig
from worldmodel.encoders.jepa.masks import OfficialMultiBlock
from worldmodel.encoders.jepa.objective import JepaConfig
from worldmodel.encoders.jepa.task import PretrainConfig
from worldmodel.training.schedules import TrainerConfig, cosine, learning_rate_at, linear, weight_decay_at


def recipe(name: str, *overrides: str) -> dict[str, Any]:
    """What a recipe describes, by section."""
    config = as_plain(composed("pretrain", [f"recipe={name}", *overrides]))
    kinds = {"clips": ClipConfig, "jepa": JepaConfig, "pretrain": PretrainConfig, "trainer": TrainerConfig}
    return {key: from_config(cls, config[key], key) for key, cls in kinds.items()}


def changed(**values: Any) -> TrainerConfig:
    usual: dict[str, Any] = {
        "steps": 12, "batch_size": 8, "learning_rate": 1e-2, "final_learning_rate": 1e-6, "warmup": 0.1,
        "weight_decay": 0.1, "final_weight_decay": 0.05, "precision": "bf16", "evaluate_every": 5,
    }  # fmt: skip
    return TrainerConfig(**{**usual, **values})


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


def test_cosine_goes_from_start_to_end_and_stays_there() -> None:
    assert [cosine(2.0, 1.0, p) for p in (0, 0.5, 1)] == pytest.approx([2.0, 1.5, 1.0])
    assert cosine(2.0, 1.0, 7.0) == 1.0
    assert cosine(2.0, 1.0, -1.0) == 2.0


def test_learning_rate_warms_up_linearly_and_ends_at_its_final_value() -> None:
    config = changed(steps=100, warmup=0.1, learning_rate=1.0, final_learning_rate=0.01)
    rates = [learning_rate_at(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.01 + 0.99 * 0.5)
    assert rates[100] == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


@given(steps=st.integers(1, 2000), warmup=st.floats(0, 1), position=st.floats(0, 1))
def test_learning_rate_is_positive_and_never_above_its_peak(steps: int, warmup: float, position: float) -> None:
    config = changed(steps=steps, warmup=warmup)
    rate = learning_rate_at(min(int(position * steps), steps - 1), config)
    assert 0 < rate <= config.learning_rate * (1 + 1e-9)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"precision": "fp16"}, "bf16, fp32"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"log_every": 0}, "log_every"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"seed": -1}, "seed"),
        ({"schedule": "step"}, "choose from constant, cosine"),
        ({"cooldown": 0.1}, "cooldown 0.1 with schedule 'cosine'"),
        ({"schedule": "constant", "warmup": 0.6, "cooldown": 0.6}, "at most 1 together"),
        ({"accumulate": 3}, "accumulate 3: expected a divisor of batch_size 8"),
        ({"accumulate": 0}, "accumulate 0"),
        ({"betas": (0.9,)}, "betas"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"stretch": 0.5}, "stretch 0.5"),
        ({"compile": "gcc"}, "choose from null, aot_eager, eager, inductor"),
        ({"start_learning_rate": -1.0}, "start_learning_rate"),
    ],
)
def test_impossible_options_are_refused_with_their_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        changed(**values)


@pytest.mark.parametrize(
    "change", [{"warmup": 2.0}, {"warmup": math.nan}, {"weight_decay": -1.0}, {"clip_norm": math.inf}]
)
def test_what_no_training_can_have(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} .*: expected a"):
        changed(**change)
