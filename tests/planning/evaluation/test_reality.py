"""Plans against reality: an exact model keeps its promises, and one that dreams does not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from planning.evaluation.reality import CheckedPlan, Reality, RealityCheck, states_on_the_way
from planning.objectives import ObjectiveConfig
from planning.optimisers.cem import CEM, CEMConfig
from planning.strategy import ControllerConfig, Strategy
from tests.planning.point_mass import PointEnv, PointLatent, PointModel

CEM_CONFIG = CEMConfig(samples=64, iterations=4, elites=8, temperature=math.inf, initial_std=0.5, action_repeat=1)
STRATEGY = Strategy(CEM(CEM_CONFIG), ObjectiveConfig(), ControllerConfig(horizon=4))
STARTS = [np.array([0.1 * i, 0.0]) for i in range(6)]
GOALS = [np.array([start[0] + 0.3, 0.0]) for start in STARTS]


class Dreamer(PointModel):
    """Believes that everything moves twice as far as it does. Its bounds know half of the error."""

    has_confidence, with_confidence = True, False

    def imagine(self, latent: PointLatent, actions: Tensor) -> PointLatent:
        return super().imagine(latent, 2 * actions)

    def error_bound(self, latents: PointLatent, level: float) -> Tensor:
        return torch.full(latents.frames.shape, 1e-4 if self.with_confidence else math.nan)


def measure(model: Any) -> Reality:
    reality = RealityCheck(PointEnv(), model, STRATEGY, torch.device("cpu")).measure(STARTS, GOALS)
    assert reality is not None and reality.plans == len(STARTS)
    return reality


def test_an_exact_model_gets_what_it_promises() -> None:
    reality = measure(PointModel(reached_distance=0.01))
    assert reality.came == pytest.approx(reality.promised, abs=0.01)
    assert reality.motion_share == pytest.approx(1, abs=0.1) and reality.kept == 1
    assert reality.error < 1e-3 and reality.covered is None


def test_a_model_that_dreams_does_not() -> None:
    reality = measure(Dreamer(reached_distance=0.01))
    assert reality.came < reality.promised - 0.01
    assert reality.motion_share < 0.5 and reality.kept < 0.5  # squared distances: half of the way is a quarter
    assert reality.error > 0.01 and reality.covered == 0
    assert "0% of errors are within the model's 90 % bound" in str(reality)


def test_a_broken_model_has_no_plan_to_check() -> None:
    check = RealityCheck(PointEnv(), PointModel(broken_beyond=-1), STRATEGY, torch.device("cpu"))
    assert check.measure(STARTS, GOALS) is None


def test_shares_count_only_plans_that_promise_motion() -> None:
    plan = CheckedPlan(promised=0.5, came=0.4, motion_promised=1.0, motion_came=0.6, error=0.1, bound=0.2)
    resting = dataclasses.replace(plan, motion_promised=0.01, motion_came=0.0, bound=0.05)
    short = dataclasses.replace(plan, motion_came=0.4)
    reality = Reality.of([plan, resting, short], reached_distance=0.2)
    assert reality.kept == 0.5 and reality.covered == pytest.approx(2 / 3)
    assert reality.motion_share == pytest.approx(1.0 / 2.01)
    assert math.isnan(Reality.of([resting], reached_distance=0.2).kept)


def test_states_are_drawn_from_every_episode() -> None:
    paths = [[[float(10 * e + t)] for t in range(5)] for e in range(3)]
    states, episodes = states_on_the_way(paths, 30, seed=1)
    assert sorted(set(episodes.tolist())) == [0, 1, 2]
    assert all(int(state[0]) // 10 == e for state, e in zip(states, episodes, strict=True))
    assert len({float(state[0]) for state in states}) > 8
    again, _ = states_on_the_way(paths, 30, seed=1)
    assert [float(s[0]) for s in again] == [float(s[0]) for s in states]
