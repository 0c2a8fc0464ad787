"""The summary of an evaluation, and `results.json`."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from planning.environment import Metric
from planning.evaluation.episodes import Episode
from worldmodel.core.statistics import wilson_interval


def short(value: float) -> str:
    """A measured quantity with two digits, or as a whole number from 100 on. It never uses powers of ten."""
    return f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.2g}"


@dataclasses.dataclass(frozen=True)
class Rate:
    """A success rate with its 95 % interval (Wilson), as fractions."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Rate:
        low, high = wilson_interval(sum(outcomes), len(outcomes))
        return cls(sum(outcomes) / max(len(outcomes), 1), low, high)

    def __str__(self) -> str:
        return f"{100 * self.value:.0f} ({100 * self.low:.0f}-{100 * self.high:.0f})"


@dataclasses.dataclass(frozen=True)
class Summary:
    """The results of one policy on all pairs.

    Attributes:
        n: number of episodes.
        success_any: rate of reaching the goal after any step. `success_final` is the rate after the last step.
        half_any: like `success_any`, with half the tolerances. `half_final` is like `success_final`.
        final_errors: median error at the end by metric, in its unit, over the episodes that did not diverge.
        diverged: number of episodes in which the simulation diverged.
        steps_without_plan: number of control steps without a usable plan in all episodes.
    """

    n: int
    success_any: Rate
    success_final: Rate
    half_any: Rate
    half_final: Rate
    final_errors: Mapping[str, float]
    diverged: int
    steps_without_plan: int

    @classmethod
    def of(cls, episodes: Sequence[Episode], metrics: Sequence[Metric]) -> Summary:
        errors = [e.final_errors for e in episodes if e.final_errors is not None]
        return cls(
            len(episodes),
            Rate.of([e.success_any for e in episodes]),
            Rate.of([e.success_final for e in episodes]),
            Rate.of([e.half_any for e in episodes]),
            Rate.of([e.half_final for e in episodes]),
            {m.name: statistics.median(e[m.name] for e in errors) for m in metrics} if errors else {},
            sum(e.diverged for e in episodes),
            sum(e.steps_without_plan for e in episodes),
        )

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values. Rates are fractions, each with its interval."""
        values: dict[str, Any] = {
            "n": self.n,
            "diverged": self.diverged,
            "steps_without_plan": self.steps_without_plan,
        }
        for name in ("success_any", "success_final", "half_any", "half_final"):
            rate: Rate = getattr(self, name)
            key = name.replace("half", "success_half_tolerance")
            values[key], values[f"{key}_interval"] = rate.value, [rate.low, rate.high]
        values["final_errors_median"] = dict(self.final_errors)
        return values


@dataclasses.dataclass(frozen=True)
class Timing:
    """The time that planning takes.

    Attributes:
        plan_ms_median: median time from observation to action of one plan for one environment [ms].
        plan_ms_p99: 99th percentile of that time [ms].
        batch: number of environments planned for at once in the evaluation.
        batched_plans_per_s: plans per second in the evaluation. None if all episodes came from the log.
    """

    plan_ms_median: float
    plan_ms_p99: float
    batch: int
    batched_plans_per_s: float | None


def episode_record(episode: Episode, seed: int) -> dict[str, Any]:
    """An episode without its states, for `results.json`."""
    record = dataclasses.asdict(episode)
    del record["states"]
    return {"seed": seed, **record}
