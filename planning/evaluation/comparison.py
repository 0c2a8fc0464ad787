"""Compares two methods by their evaluations on the same pairs, pair by pair."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planning.evaluation.report import Rate
from planning.evaluation.statistics import mcnemar_p, paired_bootstrap_interval
from worldmodel.core.errors import UserError

OUTCOMES = {
    "any step": "success_any",
    "at the end": "success_final",
    "any, half tol": "half_any",
    "end, half tol": "half_final",
}


@dataclasses.dataclass(frozen=True)
class Method:
    """The evaluations of one method, one per training.

    Attributes:
        task: the task of all evaluations, such as pairs, budget and simulator.
        outcomes: outcomes by their names in `OUTCOMES`, bool `[trainings, pairs]`.
    """

    task: dict[str, Any]
    outcomes: dict[str, NDArray[np.bool_]]


def read_results(path: str) -> dict[str, Any]:
    """The `results.json` of an evaluation, given as the file or its folder. Raises UserError."""
    try:
        file = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
        text = file.read_text() if file.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "it is not text")
        raise UserError(f"{path[:200]} cannot be read ({reason}): expected the folder of an evaluation") from error
    if text is None:
        raise UserError(f"{path[:200]} does not exist: expected the folder of an evaluation, or its results.json")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not a result of planning.evaluate: it is not JSON") from error
    reason = _unlike_results(content)
    if reason:
        raise UserError(f"{file} is not a result of planning.evaluate: {reason}")
    return dict(content)


def _unlike_results(content: Any) -> str:
    """What is wrong with the content of a results file. The text is empty if nothing is."""
    if not isinstance(content, dict):
        return "it holds no names"
    missing = [key for key in ("task", "manifest_hash", "budget", "simulator", "episodes") if key not in content]
    if missing:
        return f"it has no {missing[0]}"
    if not isinstance(content["episodes"], list) or not content["episodes"]:
        return "it has no episodes"
    for episode in content["episodes"]:
        for name in OUTCOMES.values():
            if not isinstance(episode, dict) or not isinstance(episode.get(name), bool):
                return f"{name} of an episode is not true or false"
    return ""


def read_method(paths: Sequence[str]) -> Method:
    """The method with results at `paths`. Raises UserError for unreadable results, and for results of several tasks."""
    results = [read_results(path) for path in paths]
    tasks = [{key: r[key] for key in ("task", "manifest_hash", "budget", "simulator")} for r in results]
    for path, task in zip(paths, tasks, strict=True):
        require_same(task, tasks[0], path, paths[0])
    outcomes = {
        title: np.array([[episode[name] for episode in r["episodes"]] for r in results], bool)
        for title, name in OUTCOMES.items()
    }
    return Method(tasks[0], outcomes)


def require_same(task: dict[str, Any], other: dict[str, Any], path: str, other_path: str) -> None:
    """Raises UserError that names the first difference if the results have different tasks."""
    for key, value in task.items():
        if value != other[key]:
            raise UserError(
                f"{path} and {other_path} cannot be compared: {key} is {value} and {other[key]}; "
                "both have to be evaluated on the same pairs"
            )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of a pair-by-pair comparison.

    Attributes:
        a, b: success rates over all trainings and pairs.
        difference: difference of the rates, a - b. Its 95 % interval, over resampled pairs and trainings, is from `low`
            to `high`.
        a_only, b_only: attempts in which only that method reached the goal.
        p: probability of a difference this large by chance (McNemar, exact).
    """

    a: Rate
    b: Rate
    difference: float
    low: float
    high: float
    a_only: int
    b_only: int
    p: float

    @classmethod
    def of(cls, a: NDArray[np.bool_], b: NDArray[np.bool_], resamples: int, seed: int) -> Comparison:
        """Compare outcomes `[trainings, pairs]`, training by training and pair by pair."""
        low, high = paired_bootstrap_interval(a, b, resamples, seed)
        a_only, b_only = int((a & ~b).sum()), int((b & ~a).sum())
        difference = float(a.mean() - b.mean())
        first, second = (Rate.of(outcomes.flatten().tolist()) for outcomes in (a, b))
        return cls(first, second, difference, low, high, a_only, b_only, mcnemar_p(a_only, b_only))
