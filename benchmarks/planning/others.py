"""The searches of stable-worldmodel around our world model, beside ours, in one run.

python -m benchmarks.planning.others env=push checkpoint=push
python -m benchmarks.planning.others env=push checkpoint=push 'planners=[cem,swm_mppi]' 'evaluations=[96,192]'

Options are those of `benchmarks.planning.suite`. Planners are `cem`, `swm_cem` and `swm_mppi` by default, and
evaluations [48,96,192,384,768]. Results are in runs/<env>/others.

`swm_cem` and `swm_mppi` are `CEMSolver` and `MPPISolver` of the package, with their defaults but for the numbers of
samples, rounds and elites, which the suite gives to every planner alike. Their candidates lie in [-1, 1] and are held
for as many control steps as ours. They get our warm start, our limits and our cost, so that only the search differs.
`pip install --no-deps stable-worldmodel==0.1.1 loguru` installs the package (arXiv 2602.08968). Its solvers need none
of its other dependencies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import sys
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import gymnasium
import torch
from torch import Tensor

from benchmarks.planning import suite
from planning.actions.knots import to_knots
from planning.optimisers.base import OptimiserEntry
from planning.optimisers.judge import Judge
from planning.optimisers.warm_start import first_mean, warm_start
from planning.types import Optimiser, Plan, Problem
from worldmodel.core.errors import UserError
from worldmodel.core.registry import register
from worldmodel.core.tensor_record import TensorRecord

_PACKAGE: Final = "stable_worldmodel"
_DEFAULTS: Final = {
    "planners": "planners=[cem,swm_cem,swm_mppi]",
    "evaluations": "evaluations=[48,96,192,384,768]",
}


@dataclasses.dataclass(frozen=True)
class CEMOptions:
    """Options of `CEMSolver` under our names: `num_samples`, `n_steps`, `topk` and `var_scale`."""

    samples: int = 300
    iterations: int = 30
    elites: int = 30
    spread: float = 1.0
    action_repeat: int = 4


@dataclasses.dataclass(frozen=True)
class MPPIOptions(CEMOptions):
    """Those, and the `temperature` of `MPPISolver`."""

    temperature: float = 0.5


class _Costs:
    """What a solver asks of a world model. Its candidates `[B, S, K, A]` are between -1 and 1."""

    def __init__(self, cost: Callable[[Tensor], Tensor]) -> None:
        self._cost = cost

    def get_cost(self, info: Mapping[str, Any], candidates: Tensor) -> Tensor:
        return self._cost(candidates)


def _solvers() -> ModuleType:
    """The module `stable_worldmodel.solver`. Raises UserError if the package is not installed."""
    try:
        if (spec := importlib.util.find_spec(_PACKAGE)) is None:
            raise ModuleNotFoundError(name=_PACKAGE)
        # The package is not executed, since it imports data formats and environments, which the solvers do not use.
        sys.modules.setdefault(_PACKAGE, importlib.util.module_from_spec(spec))
        return importlib.import_module(f"{_PACKAGE}.solver")
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: expected stable-worldmodel 0.1.1 and loguru (see --help)"
        ) from error


class Theirs(Optimiser):
    """A solver of stable-worldmodel.

    Args:
        solver: name of the class in `stable_worldmodel.solver`.
        options: its options.
    """

    def __init__(self, solver: str, options: CEMOptions) -> None:
        self._solver = getattr(_solvers(), solver)
        self._options = options

    @property
    def samples(self) -> int:
        return self._options.samples

    @property
    def evaluations(self) -> int:
        return self._options.samples * self._options.iterations

    def plan(self, problem: Problem, memory: TensorRecord | None, generator: torch.Generator) -> Plan:
        options, limits = self._options, problem.limits
        judge, middle, half = Judge(problem, options.action_repeat), (limits.low + limits.high) / 2, limits.span / 2
        begin = (to_knots(first_mean(problem, memory), options.action_repeat, problem.step) - middle) / half
        count, knots, size = begin.shape
        others = {"temperature": options.temperature} if isinstance(options, MPPIOptions) else {}
        solver = self._solver(
            _Costs(lambda candidates: judge.cost(limits.clip(middle + half * candidates))),
            batch_size=count,
            num_samples=options.samples,
            n_steps=options.iterations,
            topk=options.elites,
            var_scale=options.spread,
            device=begin.device,
            seed=int(torch.randint(2**31, (), generator=generator)),
            **others,
        )
        space = gymnasium.spaces.Box(-1, 1, (count, size))
        solver.configure(action_space=space, n_envs=count, config=SimpleNamespace(horizon=knots, action_block=1))
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how long it took
            found = solver.solve({"plan": torch.zeros(count, 1)}, init_action=begin)
        best = limits.clip(middle + half * found["actions"].to(begin).clone())
        cost = torch.tensor(found["costs"]).to(begin)  # of its elites, on average
        trace = torch.full((count, options.iterations), torch.nan, device=begin.device)
        return Plan(judge.actions(best), cost, warm_start(judge.held(best), problem), trace)


def main() -> None:
    """What `python -m benchmarks.planning.others` does."""
    register("optimiser", "swm_cem", OptimiserEntry(lambda options: Theirs("CEMSolver", options), CEMOptions))
    register("optimiser", "swm_mppi", OptimiserEntry(lambda options: Theirs("MPPISolver", options), MPPIOptions))
    given = {argument.partition("=")[0] for argument in sys.argv[1:]}
    arguments = [*sys.argv[1:], *(default for key, default in _DEFAULTS.items() if key not in given)]
    suite.run(__doc__, arguments, "others")


if __name__ == "__main__":
    main()
