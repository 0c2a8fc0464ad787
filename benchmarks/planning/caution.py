"""Whether plans get better when they count the model's doubts, and why or why not.

python -m benchmarks.planning.caution env=push checkpoint=push manifest.seed=901 manifest.n=100
python -m benchmarks.planning.caution checkpoint=runs/push/small manifest.seed=901 'forms=[caution_1,confident]'

From the start of every pair, each form of the objective makes one plan toward the goal with the same noise. The plan is
carried out in the simulator to its end. The first table shows what plans promised and what came, and the paired
difference to the plans of `plain`. The second table looks at candidates as a search meets them: sequences around the
plan of `plain`, and sequences drawn at random. It asks how much the error bound differs among the candidates of one
state, and whether it ranks their real errors. Options: `forms`, `candidates` (of each kind, 24), and those of
planning.evaluate. Distances are latent ones at the end of the plan.

Shapes: `B` states, `S` candidates, `H` control steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from planning.actions.limits import ActionLimits
from planning.environment import Environment
from planning.evaluation.manifest import ManifestConfig, Pair, load_or_draw
from planning.inputs import first_command
from planning.loading import choose_checkpoint, read_model
from planning.objectives import ObjectiveConfig, imagining_with_confidence
from planning.registry import make_strategy
from planning.simulation import open_env
from worldmodel.cli.command import as_plain, composed, ending_in_one_line
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting
from worldmodel.cli.tables import table
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.goal import ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.core.options import from_config

LEVEL: Final = 0.9  # of error bounds, as `ObjectiveConfig.caution` takes it
_RESAMPLES: Final = 2000
_SPREAD: Final = 0.3  # of candidates around a plan, as a share of half the action range
Cost = Callable[[Any, Any, Any], Tensor]  # (model, latents [B, S, H, ...], goal [B, ...]) -> [B, S]


def excess(weight: float) -> Cost:
    """Only doubt beyond what is usual among the candidates counts: `d + weight * max(0, bound - median bound)`."""

    def cost(model: Any, latents: Any, goal: Any) -> Tensor:
        bound: Tensor = model.error_bound(latents, LEVEL)
        beyond = (bound - bound.median(1, keepdim=True).values).clamp_min(0)
        return ObjectiveConfig().reduce(model.distance(latents, goal) + weight * beyond)

    return cost


def strange(weight: float) -> Cost:
    """Inputs unlike the recording count, not disagreement: `d + weight * max(0, log strangeness)`."""

    def cost(model: Any, latents: Any, goal: Any) -> Tensor:
        return ObjectiveConfig().reduce(
            model.distance(latents, goal) + weight * latents.strangeness.float().log().clamp_min(0)
        )

    return cost


def fading(model: Any, latents: Any, goal: Any) -> Tensor:
    """Every step counts by the product of the confidences up to it, as a discount by the model itself."""
    distance: Tensor = model.distance(latents, goal)
    weight = model.confidence(latents).cumprod(-1) + torch.finfo(torch.float32).tiny
    return (distance * weight).sum(-1) / weight.sum(-1)


FORMS: Final[dict[str, Cost]] = {
    "plain": ObjectiveConfig().cost,
    "discounted": ObjectiveConfig(steps="discounted").cost,  # what `confident` is without confidence
    "caution_0.5": ObjectiveConfig(caution=0.5).cost,
    "caution_1": ObjectiveConfig(caution=1.0).cost,
    "caution_2": ObjectiveConfig(caution=2.0).cost,
    "confident": ObjectiveConfig(steps="confident").cost,
    "excess_1": excess(1.0),
    "strange_0.1": strange(0.1),
    "fading": fading,
}
_WITHOUT_DOUBT: Final = ("plain", "discounted")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One plan.

    Attributes:
        promised: how much nearer to the goal its end was imagined to be.
        came: how much nearer it was.
        error: distance from the imagined to the real end.
        left: the task's first error at the real end, in its unit.
    """

    promised: float
    came: float
    error: float
    left: float


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Candidates from one state: bounds on their errors, their errors, and imagined distances to the goal, `[S]`."""

    bound: NDArray[np.float64]
    error: NDArray[np.float64]
    distance: NDArray[np.float64]

    @property
    def correlation(self) -> float:
        """Spearman's correlation between bounds and errors."""
        ranks = [values.argsort().argsort() for values in (self.bound, self.error)]
        return float(np.corrcoef(*ranks)[0, 1])


class Bench:
    """A model with confidence, a simulator, and the search of `planner`."""

    def __init__(self, env: Environment, model: Any, planner: dict[str, Any], seed: int) -> None:
        if not getattr(model, "has_confidence", False):
            raise UserError("this model has no confidence: expected one trained with predictor.heads above 1")
        self._env, self._model, self._strategy = env, model, make_strategy(planner, seed)
        self._limits = ActionLimits.of(model.spec.action, model.spec.control_step_s)
        self._rng = np.random.default_rng(seed)

    @torch.no_grad()
    def outcomes(self, pair: Pair, forms: Sequence[str]) -> dict[str, Outcome]:
        """One plan of each form for `pair`, and what came of it."""
        start, latent, wanted, last = self._begin(pair)
        plans = torch.cat([self._plan(form, latent, wanted, last) for form in forms])
        before = float(self._model.distance(latent, wanted))
        imagined, real, ends = self._compare(start, latent, plans)
        nearer = [before - self._model.distance(end, wanted) for end in (imagined, real)]
        apart = self._model.distance(imagined, real)
        left = self._env.goal_errors(ends, np.array(pair.goal))[self._env.metrics[0].name]
        return {
            form: Outcome(float(nearer[0][i]), float(nearer[1][i]), float(apart[i]), float(left[i]))
            for i, form in enumerate(forms)
        }

    @torch.no_grad()
    def candidates(self, pair: Pair, count: int) -> list[Candidates]:
        """`count` candidates around the plan of `plain` for `pair`, and as many anywhere."""
        start, latent, wanted, last = self._begin(pair)
        drawn = self._draw(self._plan("plain", latent, wanted, last), last, count)
        return [self._candidates(start, latent, wanted, each) for each in drawn]

    def _begin(self, pair: Pair) -> tuple[NDArray[np.float64], Any, Any, Tensor]:
        """Start state `[N]`, latent, latent goal, and the command in force `[1, A]`."""
        start = np.array(pair.start)
        seen = Observation.stack([Observation.of(self._env.reset(options={"state": start})[0])])
        goal = self._model.goal(ImageGoal(self._env.goal_images(np.array(pair.goal))))
        (command,) = first_command(None, seen, self._model.spec.action, [True])
        return start, self._model.observe(None, seen, None), goal, self._limits.clip(torch.as_tensor(command)[None])

    def _plan(self, form: str, latent: Any, wanted: Any, last: Tensor) -> Tensor:
        """The plan `[1, H, A]` of one form."""

        def cost(actions: Tensor) -> Tensor:
            return FORMS[form](self._model, self._model.imagine(latent, actions), wanted)

        doubting = contextlib.nullcontext() if form in _WITHOUT_DOUBT else imagining_with_confidence(self._model)
        with doubting:
            actions: Tensor = self._strategy.plan(cost, self._limits, last, 0, None).actions
        return actions

    def _draw(self, plan: Tensor, last: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Candidates `[S, H, A]` around `plan [1, H, A]`, and anywhere within the limits."""
        horizon, repeat = plan.shape[1], 4  # control steps that share one action, as in a plan of push
        shape = (count, -(-horizon // repeat), self._limits.size)
        noise = torch.from_numpy(self._rng.standard_normal(shape)).float().repeat_interleave(repeat, 1)[:, :horizon]
        half = self._limits.span / 2
        near, far = plan + _SPREAD * half * noise, half * noise
        lasts = last.expand(count, -1)
        return self._limits.project(near, lasts), self._limits.project(far, lasts)

    def _compare(self, start: NDArray[np.float64], latent: Any, actions: Tensor) -> tuple[Any, Any, Any]:
        """Imagined and real latents `[S, ...]`, and the state `[S, N]`, at the end of `actions [S, H, A]`."""
        with imagining_with_confidence(self._model):
            ahead = self._model.imagine(latent, actions[None])
        imagined = ahead.map(lambda part: part[0, :, -1])
        ends = self._env.simulate(start, actions.double().numpy())[:, -1]
        seen = Observation.stack([Observation.of(self._env.reset(options={"state": end})[0]) for end in ends])
        return imagined, self._model.observe(None, seen, None), ends

    def _candidates(self, start: NDArray[np.float64], latent: Any, wanted: Any, actions: Tensor) -> Candidates:
        with imagining_with_confidence(self._model):
            bound = self._model.error_bound(self._model.imagine(latent, actions[None]), LEVEL)[0, :, -1]
        imagined, real, _ = self._compare(start, latent, actions)
        distance = self._model.distance(imagined, wanted)
        return Candidates(*(part.double().numpy() for part in (bound, self._model.distance(imagined, real), distance)))


def show_outcomes(found: dict[str, list[Outcome]], title: str, unit: str) -> None:
    """Print promises and what came of them, by form."""
    first = next(iter(found))
    columns = ("objective", "promised", "came", "error, median", f"came, more than {first}", f"left [{unit}], mean")
    rows = table(title, *columns, f"less than {first}")
    for form, outcomes in found.items():
        values = {name: np.array([getattr(each, name) for each in outcomes]) for name in ("promised", "came", "left")}
        others = {name: np.array([getattr(each, name) for each in found[first]]) for name in ("came", "left")}
        rows.add_row(
            form,
            f"{values['promised'].mean():.3f}",
            f"{values['came'].mean():.3f}",
            f"{np.median([each.error for each in outcomes]):.3f}",
            "" if form == first else interval(values["came"] - others["came"]),
            f"{values['left'].mean():.2f}",
            "" if form == first else interval(others["left"] - values["left"]),
        )
    console.print(rows)


def interval(differences: NDArray[np.float64]) -> str:
    """Mean and 95 % bootstrap interval."""
    draws = np.random.default_rng(0).integers(len(differences), size=(_RESAMPLES, len(differences)))
    low, high = np.quantile(differences[draws].mean(1), [0.025, 0.975])
    return f"{differences.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def show_candidates(found: dict[str, list[Candidates]], title: str) -> None:
    """Print how bounds, errors and distances vary among the candidates of one state, and how bounds rank errors."""
    columns = ("candidates", "bound, mean", "spread of bounds", "spread of errors", "spread of distances")
    rows = table(title, *columns, "rank correlation of bound and error")
    for kind, states in found.items():
        spreads = [np.mean([getattr(each, name).std() for each in states]) for name in ("bound", "error", "distance")]
        correlations = [each.correlation for each in states]
        rows.add_row(
            kind,
            f"{np.mean([each.bound.mean() for each in states]):.3f}",
            *(f"{spread:.3f}" for spread in spreads),
            f"{np.mean(correlations):+.2f}",
        )
    console.print(rows)


def read(arguments: Sequence[str]) -> tuple[list[str], int, list[str]]:
    """Forms, the number of candidates, and the options of planning.evaluate. Raises UserError."""
    forms, count, others = list(FORMS), 24, []
    for argument in arguments:
        name, _, text = argument.partition("=")
        if name == "forms":
            given = yaml.safe_load(text)
            forms = ["plain", *(form for form in given if form != "plain")]
            for form in forms:
                if form not in FORMS:
                    raise UserError(choices_message("form", form, FORMS))
        elif name == "candidates":
            if not text.isdigit() or int(text) < 2:
                raise UserError(f"{argument} cannot be used: expected a whole number from 2 up")
            count = int(text)
        else:
            others.append(argument)
    return forms, count, others


def measure(arguments: Sequence[str]) -> None:
    """Print both tables. Raises UserError."""
    forms, count, others = read(arguments)
    # No head proposes here, since objectives are compared, and not what a search finds.
    chosen = [] if any(other.startswith("planner=") for other in others) else ["planner=cem"]
    config = as_plain(composed("evaluate", [*chosen, *others]))
    device = torch.device("cpu")
    env, spec = open_env(config["env"])
    with contextlib.closing(env):
        checkpoint = choose_checkpoint(config["checkpoint"], spec.env)
        model = read_model(checkpoint, device, config["precision"], False, spec)
        drawn = from_config(ManifestConfig, config["manifest"], "manifest")
        pairs = load_or_draw(env, spec.simulator, spec.options, drawn).pairs
        bench = Bench(env, model, config["planner"], config["seed"])
        outcomes: dict[str, list[Outcome]] = {form: [] for form in forms}
        candidates: dict[str, list[Candidates]] = {"around the plan": [], "anywhere": []}
        with counting("plans") as progress:
            for done, pair in enumerate(pairs):
                for form, outcome in bench.outcomes(pair, forms).items():
                    outcomes[form].append(outcome)
                for kind, each in zip(candidates, bench.candidates(pair, count), strict=True):
                    candidates[kind].append(each)
                progress(done + 1, len(pairs))
        metric = env.metrics[0]
    title = f"{checkpoint.title}, {len(pairs)} plans of each objective"
    show_outcomes(outcomes, title, f"{metric.name}, {metric.unit}")
    show_candidates(candidates, f"{count} candidates from each of {len(pairs)} states, at the end of the plan")


def main() -> None:
    """What `python -m benchmarks.planning.caution` does."""
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        print(__doc__)
        return
    with ending_in_one_line("the same command begins anew"):
        measure(sys.argv[1:])


if __name__ == "__main__":
    main()
