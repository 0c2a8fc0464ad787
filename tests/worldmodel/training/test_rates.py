"""Parameters that learn at a lower rate than the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from tests.worldmodel.training.test_trainer import CONFIG, CPU, Regression
from worldmodel.training.trainer import Trainer, TrainerConfig, learning_rate_at


class Slower(Regression):
    """The first layer learns at a tenth of the rate of the last."""

    def slower(self) -> tuple[list[nn.Parameter], float]:
        return [self.module[0].weight], 0.1


def test_some_parameters_learn_at_a_lower_rate_also_after_an_interruption(tmp_path: Path) -> None:
    config = TrainerConfig(**{**CONFIG.__dict__, "precision": "fp32", "weight_decay": 0.0, "final_weight_decay": 0.0})
    task = Slower()
    trainer = Trainer(task, config, tmp_path, CPU)
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    trainer._optimise()
    rate = learning_rate_at(0, config)
    moved = {name: float((value - before[name]).abs().max()) for name, value in task.module.state_dict().items()}
    # The first step of Adam is as long as the learning rate.
    assert moved["0.weight"] == pytest.approx(0.1 * rate, rel=1e-3)
    assert moved["2.weight"] == pytest.approx(rate, rel=1e-3)
    trainer.save()
    again = Trainer(Slower(), config, tmp_path, CPU)
    assert [group.get("rate", 1.0) for group in again.optimiser.param_groups] == [1.0, 1.0, 0.1, 0.1]
