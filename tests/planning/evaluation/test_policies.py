"""The baseline that acts as an inverse-dynamics head predicts, in the point world."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from planning.evaluation.episodes import judge
from planning.evaluation.manifest import Pair
from planning.evaluation.policies import InversePolicy
from planning.evaluation.rollout import rollout
from planning.evaluation.task import from_pair
from tests.planning.point_mass import PointEnv, PointLatent, PointModel, show

CPU = torch.device("cpu")


class Straight:
    """Goes straight from where the point is to its goal, and says NaN if it starts on the left."""

    identity, chunk = "straight", 3

    def __init__(self) -> None:
        self.asked: list[float] = []

    def predict(self, latents: PointLatent, goals: PointLatent, steps: Tensor) -> Tensor:
        self.asked.append(float(steps))
        speed = 10 * (goals.position - latents.position) / steps[:, None]
        speed = torch.where(latents.position[:, :1] < -0.5, torch.nan, speed)
        return speed[:, None].expand(-1, self.chunk, -1)


def test_it_arrives_when_it_should_and_stays() -> None:
    pairs = [Pair(0, (0.0, 0.0), (0.5, 0.3)), Pair(1, (0.2, -0.2), (-0.4, 0.2)), Pair(2, (-0.9, 0.0), (0.5, 0.0))]
    envs = [PointEnv() for _ in pairs]
    head = Straight()
    policy = InversePolicy(PointModel(), head, CPU, steps_ahead=10)
    tasks = [from_pair(env, pair) for env, pair in zip(envs, pairs, strict=True)]
    ended = rollout(envs, tasks, policy, 20)
    judged = [judge(env, i, np.array(pairs[i].goal), ended[i]) for i, env in enumerate(envs)]
    assert [each.success_final for each in judged] == [True, True, False]
    # A prediction that is no number means to rest.
    assert [each.steps_without_plan for each in judged] == [0, 0, 20]
    assert head.asked[:3] == [10] * 3 and head.asked[3] == 9 and head.asked[-1] == 5


def test_its_actions_hold_the_limits_and_depend_on_no_other_row() -> None:
    def act(*places: list[float]) -> np.ndarray:
        policy = InversePolicy(PointModel(), Straight(), CPU, steps_ahead=1)
        env = PointEnv()
        policy.reset([from_pair(env, Pair(0, tuple(place), (1.0, -1.0))) for place in places])
        return policy.act(show(*places)).actions

    together, alone = act([0.0, 0.0], [0.5, 0.5]), act([0.5, 0.5])
    assert (np.abs(together) <= 1).all() and np.array_equal(together[1], alone[0])
