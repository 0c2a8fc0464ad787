"""Compares two methods by their evaluations on the same pairs, pair by pair.

python -m planning.compare a=runs/push/evaluate/<hash> b=runs/push/evaluate/<hash>
python -m planning.compare a=[seed0,seed1,seed2] b=[seed0,seed1,seed2]     # several trainings of each method
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from planning.display import comparison_table
from planning.evaluation.comparison import OUTCOMES, Comparison, read_method, require_same
from worldmodel.cli.command import Config, command, plain_options
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file, write_json
from worldmodel.core.options import from_config


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """The options in `configs/compare.yaml` beside `a` and `b`. The file explains each."""

    resamples: int
    seed: int
    out: str | None

    def __post_init__(self) -> None:
        if self.resamples < 100 or self.seed < 0:
            raise ValueError(f"resamples {self.resamples} and seed {self.seed}: at least 100 and 0 are accepted")


def _paths(config: Config, key: str) -> list[str]:
    value = config[key]
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise UserError(f"{key}={value}: expected the folder of an evaluation, or a list of them: {key}=[first,second]")
    return paths


def compare(config: Config) -> None:
    """Run `python -m planning.compare`. Raises UserError for input that cannot be used."""
    options = from_config(CompareConfig, {k: v for k, v in plain_options(config).items() if k not in "ab"}, "compare")
    paths = {key: _paths(config, key) for key in "ab"}
    if len(paths["a"]) != len(paths["b"]):
        raise UserError(f"a has {len(paths['a'])} evaluations and b {len(paths['b'])}: expected as many of each")
    a, b = (read_method(paths[key]) for key in "ab")
    require_same(a.task, b.task, paths["a"][0], paths["b"][0])
    if options.out is not None:
        output_file(options.out)
    found = {
        title: Comparison.of(a.outcomes[title], b.outcomes[title], options.resamples, options.seed)
        for title in OUTCOMES
    }
    trainings, pairs = next(iter(a.outcomes.values())).shape
    console.print(
        comparison_table(f"{a.task['task']}: {trainings} x {pairs} attempts, success in % (95 % interval)", found)
    )
    if options.out is not None:
        content = {"a": paths["a"], "b": paths["b"], **a.task}
        rows = {title: dataclasses.asdict(comparison) for title, comparison in found.items()}
        write_json({**content, "outcomes": rows}, Path(options.out), indent=1)
        console.print(f"comparison: {options.out}")


main = command("compare", goes_on=False)(compare)

if __name__ == "__main__":
    main()
