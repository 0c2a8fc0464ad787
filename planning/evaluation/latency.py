"""Measures how long one environment waits for its next action."""

from __future__ import annotations

from planning.environment import Environment
from planning.evaluation.manifest import Pair
from planning.evaluation.policies import WorldModelPolicy
from planning.evaluation.rollout import rollout
from planning.evaluation.task import from_pair

# Plans whose times do not count: caches are cold, and a model may not know yet how things move.
WARM_UP = 3


def measure_plan_ms(
    env: Environment, pair: Pair, policy: WorldModelPolicy, warm_up: int = WARM_UP, plans: int = 30
) -> list[float]:
    """Milliseconds from observation to action, one per plan of an episode with a batch of one."""
    policy.plan_ms.clear()
    rollout([env], [from_pair(env, pair)], policy, (warm_up + plans) * policy.execute)
    return policy.plan_ms[warm_up:]
