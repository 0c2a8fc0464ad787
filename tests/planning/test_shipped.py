"""The shipped world models plan what they planned when they were shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from planning.controller import Observations
from planning.loading import Checkpoint, bounds_of, read_model
from planning.policies import make_controller
from planning.registry import make_planner
from worldmodel.cli.command import as_plain, composed

# Six control steps toward three goals each: what was seen (pictures and proprioception), and what was then done.
# Frames are kept, rather than rendered, because contacts differ between versions of MuJoCo.
GOLDEN = Path(__file__).parents[1] / "golden" / "shipped_plans.npz"


@pytest.mark.parametrize("env", ["push", "reacher"])
def test_the_same_plans_as_when_it_was_shipped(env: str) -> None:
    golden = np.load(GOLDEN)
    frames, proprio, goals, actions, distances = (
        golden[f"{env}_{name}"] for name in ("frames", "proprio", "goals", "actions", "distances")
    )
    cpu = torch.device("cpu")
    model = read_model(Checkpoint(env, env), cpu, "fp32")
    planner = make_planner(as_plain(composed("run", [f"env={env}"]))["planner"], model.history, 0)
    bounds = bounds_of(model.spec)
    within = 1e-4 * (bounds.high - bounds.low).numpy()
    for row, goal in enumerate(goals):
        controller = make_controller(model, planner, bounds, goal[None], cpu)
        for step in range(frames.shape[1]):
            decision = controller.act(Observations(frames[row, step][None], proprio[row, step][None]))
            assert (np.abs(decision.actions[0] - actions[row, step]) <= within).all()
            np.testing.assert_allclose(decision.distance[0], distances[row, step], rtol=1e-4)
