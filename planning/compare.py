"""Is one method better than another? Two evaluations of the same pairs, compared pair by pair.

python -m planning.compare a=runs/push/evaluate/<hash> b=runs/push/evaluate/<hash>
python -m planning.compare a=[seed0,seed1,seed2] b=[seed0,seed1,seed2]     # several trainings of each method
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from planning.evaluation.report import Rate
from planning.evaluation.statistics import mcnemar_p, paired_bootstrap_interval
from worldmodel.cli.command import Config, command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.tables import table
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file, write_json
from worldmodel.core.options import from_config

OUTCOMES = {
    "any step": "success_any",
    "at the end": "success_final",
    "any, half tol": "half_any",
    "end, half tol": "half_final",
}


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """What `configs/compare.yaml` holds beside `a` and `b`; it says what each means."""

    resamples: int
    seed: int
    out: str | None

    def __post_init__(self) -> None:
        if self.resamples < 100 or self.seed < 0:
            raise ValueError(f"resamples {self.resamples} and seed {self.seed}: at least 100 and 0 are accepted")


@dataclasses.dataclass(frozen=True)
class Method:
    """Evaluations of one method, one per training of it.

    Attributes:
        task: what all of them were asked: pairs, budget, simulator.
        outcomes: by the names of `OUTCOMES`, bool `[trainings, pairs]`.
    """

    task: dict[str, Any]
    outcomes: dict[str, NDArray[np.bool_]]


def read_results(path: str) -> dict[str, Any]:
    """The `results.json` of an evaluation, given as the file or its folder. Raises UserError."""
    file = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text())
        for key in ("task", "manifest_hash", "budget", "simulator"):
            content[key]
        for episode in content["episodes"]:
            if not all(isinstance(episode[name], bool) for name in OUTCOMES.values()):
                raise TypeError("an outcome is not true or false")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a result of planning.evaluate: {error!r}") from error
    return dict(content)


def read_method(paths: Sequence[str]) -> Method:
    """Raises UserError for results that cannot be read, or that are not about the same task."""
    results = [read_results(path) for path in paths]
    tasks = [{key: r[key] for key in ("task", "manifest_hash", "budget", "simulator")} for r in results]
    for path, task in zip(paths, tasks, strict=True):
        _require_same(task, tasks[0], path, paths[0])
    outcomes = {
        title: np.array([[episode[name] for episode in r["episodes"]] for r in results], bool)
        for title, name in OUTCOMES.items()
    }
    return Method(tasks[0], outcomes)


def _require_same(task: dict[str, Any], other: dict[str, Any], path: str, other_path: str) -> None:
    for key, value in task.items():
        if value != other[key]:
            raise UserError(
                f"{path} and {other_path} cannot be compared: {key} is {value} and {other[key]}; "
                "both have to be evaluated on the same pairs"
            )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a pair-by-pair comparison found.

    Attributes:
        a, b: success rates over all trainings and pairs.
        difference: of the rates, a - b; its 95 % interval is from `low` to `high`, pairs and trainings resampled.
        a_only, b_only: attempts in which one reached the goal and the other did not.
        p: of a difference this large by chance (McNemar, exact).
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


def _paths(config: Config, key: str) -> list[str]:
    value = config[key]
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise UserError(f"{key}={value}: expected the folder of an evaluation, or a list of them: {key}=[first,second]")
    return paths


def compare(config: Config) -> None:
    """What `python -m planning.compare` does. Raises UserError for input that cannot be used."""
    options = from_config(CompareConfig, {k: v for k, v in plain_options(config).items() if k not in "ab"}, "compare")
    paths = {key: _paths(config, key) for key in "ab"}
    if len(paths["a"]) != len(paths["b"]):
        raise UserError(f"a has {len(paths['a'])} evaluations and b {len(paths['b'])}: expected as many of each")
    a, b = (read_method(paths[key]) for key in "ab")
    _require_same(a.task, b.task, paths["a"][0], paths["b"][0])
    if options.out is not None:
        output_file(options.out)
    found = {
        title: Comparison.of(a.outcomes[title], b.outcomes[title], options.resamples, options.seed)
        for title in OUTCOMES
    }
    trainings, pairs = next(iter(a.outcomes.values())).shape
    console.print(_table(f"{a.task['task']}: {trainings} x {pairs} attempts, success in % (95 % interval)", found))
    if options.out is not None:
        content = {"a": paths["a"], "b": paths["b"], **a.task}
        rows = {title: dataclasses.asdict(comparison) for title, comparison in found.items()}
        write_json({**content, "outcomes": rows}, Path(options.out), indent=1)
        console.print(f"comparison: {options.out}")


def _table(title: str, found: dict[str, Comparison]) -> Table:
    made = table(title, "", "a", "b", "a - b", "only a", "only b", "p (McNemar)", narrow=True)
    for outcome, c in found.items():
        difference = f"{100 * c.difference:+.1f} ({100 * c.low:+.1f} to {100 * c.high:+.1f})"
        made.add_row(outcome, str(c.a), str(c.b), difference, str(c.a_only), str(c.b_only), f"{c.p:.2g}")
    return made


main = command("compare", goes_on=False)(compare)

if __name__ == "__main__":
    main()
