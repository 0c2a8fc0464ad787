"""Candidates of others: how many they are, how long they are, and that a controller evaluates them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.controller import Controller
from planning.objectives import ObjectiveConfig
from planning.policies.inverse import Predicted
from planning.policies.proposals import Proposals, fit_to_horizon
from planning.registry import make_optimiser, make_strategy
from planning.settings import read_settings
from planning.strategy import ControllerConfig, Strategy
from planning.types import Propose, Proposer
from tests.planning.optimisers.conformance import ARM_LIMITS, LIMITS
from tests.planning.point_mass import PointLatent, PointModel, picture_of, show
from worldmodel.core.errors import UserError

CPU = torch.device("cpu")


class Fixed:
    """Proposes the same actions `[H, A]` as often as it may."""

    def __init__(self, actions: Tensor, identity: str = "fixed") -> None:
        self._actions, self.identity = actions, identity
        self.asked: list[int] = []

    def toward(self, latents: Sequence[Any], goals: Sequence[Any], limits: ActionLimits, horizon: int) -> Propose:
        def propose(most: int, generator: torch.Generator) -> Tensor:
            self.asked.append(most)
            return self._actions.expand(len(latents), most, -1, -1)

        return propose


def test_sources_share_the_places() -> None:
    first, second = Fixed(torch.zeros(3, 2)), Fixed(torch.ones(3, 2))
    both: Proposer = Proposals([first, second], 0.5)
    propose = both.toward([None], [None], LIMITS, 3)
    proposed = propose(40, torch.Generator())
    assert first.asked == second.asked == [10] and proposed.shape == (1, 20, 3, 2)
    assert propose(1, torch.Generator()).shape == (1, 1, 3, 2)  # each proposes one, and there is room for one
    assert both.identity != Proposals([first], 0.5).identity != Proposals([first], 0.25).identity


def test_chunks_are_cut_or_continued_with_rest() -> None:
    chunks = torch.tensor([[[20.0, 0.1, 1.0], [30.0, 0.2, 0.0]]])
    assert torch.equal(fit_to_horizon(chunks, 1, ARM_LIMITS), chunks[:, :1])
    longer = fit_to_horizon(chunks, 4, ARM_LIMITS)
    assert longer.tolist() == [[*chunks[0].tolist(), *[[30.0, 0.0, 0.0]] * 2]]


def test_a_controller_follows_a_proposal_that_chance_does_not_find() -> None:
    """Only one sequence of actions leads out of a maze, so to say. It is proposed, and taken."""
    torch.manual_seed(0)
    way = torch.rand(6, 2) - 0.5

    class Maze(PointModel):
        def distance(self, latents: PointLatent, goal: PointLatent) -> Tensor:
            if latents.position.ndim < 4:
                return torch.ones(len(latents.position))
            is_way = ((latents.action - way).abs() < 1e-6).all(-1).all(-1)
            return 1 - is_way[..., None].expand(latents.position.shape[:-1]).float()

    optimiser = make_optimiser("cem", {"samples": 16, "elites": 4, "action_repeat": 1, "result": "best"})
    plain = Strategy(optimiser, ObjectiveConfig(), ControllerConfig(6))
    helped = Strategy(optimiser, ObjectiveConfig(), ControllerConfig(6), proposer=Proposals([Fixed(way)], 0.25))
    costs = {}
    for name, strategy in (("plain", plain), ("helped", helped)):
        controller = Controller(Maze(), strategy, [picture_of([0.3, 0.0])] * 2, CPU)
        decision = controller.act(show([0.0, 0.0], [0.1, 0.0]))
        costs[name] = decision.predicted_cost
    assert (costs["plain"] > 0.9).all() and (costs["helped"] == 0).all()
    np.testing.assert_allclose(decision.actions, np.stack([way[0].numpy()] * 2), rtol=1e-6)


class Head:
    """Goes straight from where the point is to its goal."""

    identity, chunk = "straight", 4

    def predict(self, latents: PointLatent, goals: PointLatent, steps: Tensor) -> Tensor:
        speed = 10 * (goals.position - latents.position) / steps[:, None]
        return speed[:, None].expand(-1, self.chunk, -1)


def test_a_head_is_asked_for_several_numbers_of_steps() -> None:
    here, there = (
        PointLatent(torch.tensor([place]), torch.ones(1), torch.zeros(1, 2)) for place in ([0.0, 0], [1.0, 0])
    )
    propose = Predicted(Head()).toward([here, there], [there, there], LIMITS, 4)
    proposed = propose(4, torch.Generator())
    assert proposed.shape == (2, 4, 4, 2) and (proposed[1] == 0).all()
    torch.testing.assert_close(proposed[0, :, 0, 0], 10 / torch.linspace(1, 10, 4))


def test_options_are_read() -> None:
    strategy = make_strategy(read_settings({"proposals.share": 0.1, "proposals.memory": "runs/x"}), 0)
    assert (strategy.proposals.share, strategy.proposals.memory, strategy.proposer) == (0.1, "runs/x", None)
    with pytest.raises(UserError, match=r"planner proposals: share 0.0 must be above 0"):
        make_strategy(read_settings({"proposals.share": 0.0}), 0)
