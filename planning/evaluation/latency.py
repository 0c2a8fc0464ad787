"""How long one environment waits for its next action."""

from __future__ import annotations

from planning.environment import Environment
from planning.evaluation.episodes import run_batch
from planning.manifest import Pair
from planning.policies import WorldModelPolicy


def measure_plan_ms(
    env: Environment, pair: Pair, policy: WorldModelPolicy, warm_up: int, plans: int = 30
) -> list[float]:
    """Milliseconds from observation to action, one per plan of an episode with a batch of one.

    The first `warm_up` plans do not count: their histories are shorter, and caches are cold.
    """
    policy.plan_ms.clear()
    run_batch([env], [(0, pair)], policy, (warm_up + plans) * policy.execute)
    return policy.plan_ms[warm_up:]
