"""Measures how long one environment waits for its next action."""

from __future__ import annotations

from planning.environment import Environment
from planning.evaluation.manifest import Pair
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.rollout import rollout
from planning.evaluation.task import from_pair

# First plans, whose times do not count, because caches are cold and the model may not have seen motion yet.
WARM_UP = 3


def measure_plan_ms(
    env: Environment, pair: Pair, policy: WorldModelPolicy, warm_up: int = WARM_UP, plans: int = 30
) -> list[float]:
    """Time from observation to action [ms] of each plan of an episode with a batch of one."""
    policy.plan_ms.clear()
    rollout([env], [from_pair(env, pair)], policy, (warm_up + plans) * policy.execute)
    return policy.plan_ms[warm_up:]
