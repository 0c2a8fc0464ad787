"""A planner of your own, used by name: python examples/own_planner.py

It draws samples around the best one so far, and halves the standard deviation in every iteration.
"""

import torch

from planning.optimisers.base import OptimiserEntry, SamplingConfig, SamplingOptimiser, Search
from planning.registry import make_optimiser
from planning.types import Problem
from worldmodel.core.registry import register


class Halving(SamplingOptimiser):
    def draw(self, search, limits, generator):
        noise = torch.randn(self.config.samples - 1, *search.mean.shape[1:], generator=generator)
        return search.mean[:, None] + search.std[:, None] * noise

    def refit(self, search, knots, cost, limits):
        best = knots[torch.arange(len(knots)), cost.argmin(1)]
        return Search(torch.where(cost.isfinite().any(1)[:, None, None], best, search.mean), search.std / 2)


register("optimiser", "halving", OptimiserEntry(Halving, SamplingConfig))  # now planner=halving is a choice

if __name__ == "__main__":
    from planning.actions.limits import ActionLimits
    from worldmodel.core.spec import ActionSpec

    limits = ActionLimits.of(ActionSpec((-1.0, -1.0), (1.0, 1.0), ("m/s", "m/s")), control_step_s=0.1)
    target = torch.tensor([0.3, -0.7])
    problem = Problem(lambda actions: (actions - target).square().sum((-1, -2)), limits, torch.zeros(1, 2), horizon=4)
    plan = make_optimiser("halving", {"iterations": 6}).plan(problem, None, torch.Generator().manual_seed(0))
    print("found", plan.actions[0, 0], "at a cost of", plan.cost[0])
