"""Time of every part of a planned action, and how busy the machine is meanwhile.

python -m benchmarks.planning.speed                           # the shipped push checkpoint, the planner of env=push
python -m benchmarks.planning.speed env=reacher checkpoint=reacher planner.options.samples=512
python -m benchmarks.planning.speed env=push checkpoint=push compile=onnx precision=fp32    # beside compile=false

Options are those of planning.evaluate. Images are those of starts of episodes.
"""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import matrix_product_gflops, median_ms
from planning.controller import Controller
from planning.loading import choose_checkpoint, read_model, with_proposals
from planning.registry import make_strategy
from planning.simulation import open_env
from planning.strategy import Strategy
from worldmodel.cli.command import as_plain, composed, fail
from worldmodel.cli.console import console
from worldmodel.cli.tables import table
from worldmodel.core.device import DTYPES, pick_compile, pick_device, pick_precision
from worldmodel.core.errors import UserError
from worldmodel.core.goal import ImageGoal
from worldmodel.core.observation import Observation
from worldmodel.models.contract import WorldModel

REPEATS, WARM_UP = 30, 4


class Parts:
    """The parts of a plan for the robots that `seen [B, ...]` shows, which are timed one by one."""

    def __init__(self, model: WorldModel, strategy: Strategy, seen: Observation, device: torch.device) -> None:
        spec, batch = model.spec, len(seen.proprio)
        self.model, self.strategy, self._seen = model, strategy, seen
        images = {name: np.asarray(of_camera) for name, of_camera in seen.images.items()}
        # The goal of each is the start of the previous one, alone its own.
        goals = [ImageGoal({name: image[row - 1] for name, image in images.items()}) for row in range(batch)]
        self._controller = Controller(model, strategy, goals, device)
        samples, horizon = strategy.optimiser.samples, strategy.controller.horizon
        self.actions: Tensor = 0.1 * torch.rand(batch, samples, horizon, spec.action.size).to(device)
        self._generator = torch.Generator(device)
        self._action = torch.zeros(1, spec.action.size, device=device)
        with torch.no_grad():
            # The latent after the second step, since nearly all steps have a previous frame.
            first = [model.observe(None, self._row(row), None) for row in range(batch)]
            self._before = first
            self.latents = self.encode()
            self.goals = [model.goal(goal) for goal in goals]
            self.imagined = self.imagine()

    def _row(self, row: int) -> Observation:
        return self._seen.rows(slice(row, row + 1))

    @torch.no_grad()
    def encode(self) -> list[object]:
        return [self.model.observe(before, self._row(row), self._action) for row, before in enumerate(self._before)]

    @torch.no_grad()
    def imagine(self) -> list[object]:
        rows = zip(self.latents, self.actions.split(1), strict=True)
        return [self.model.imagine(latent, actions) for latent, actions in rows]

    def imagine_in_training(self) -> list[object]:
        """As in training, when weights change in every step, so that they are cast to bf16 in every evaluation."""
        self.model.train()
        try:
            return self.imagine()
        finally:
            self.model.eval()

    @torch.no_grad()
    def judge(self) -> list[object]:
        rows = zip(self.imagined, self.goals, strict=True)
        return [self.strategy.objective.reduce(self.model.distance(ahead, goal)) for ahead, goal in rows]

    @torch.no_grad()
    def propose(self) -> object:
        propose = self.strategy.propose(self.latents, self.goals, self._controller.limits)
        return None if propose is None else propose(self.strategy.optimiser.samples, self._generator)

    def plan(self) -> object:
        return self._controller.act(self._seen)


def main(overrides: list[str]) -> None:
    """Print the table."""
    config = as_plain(composed("evaluate", overrides))
    device = pick_device(config["device"])
    config["precision"] = pick_precision(config["precision"], device)
    env, spec = open_env(config["env"])
    with contextlib.closing(env):
        starts = [Observation.of(env.reset(seed=seed)[0]) for seed in range(int(config["batch"]))]
    checkpoint = choose_checkpoint(config["checkpoint"] or spec.env, spec.env)
    model = read_model(checkpoint, device, config["precision"], config["compile"], spec)
    compiles = pick_compile(config["compile"], device)
    plain = read_model(checkpoint, device, config["precision"], False, spec) if compiles else None
    strategy = with_proposals(make_strategy(config["planner"], config["seed"]), model)
    dtype = DTYPES[config["precision"]]
    title = f"{checkpoint.title}, {device}, {torch.get_num_threads()} threads, {config['precision']}; median ms"
    parts_of_plan = ("encode", "imagine", "judge", "propose", "search")
    found = table(title, "environments", "plan", *parts_of_plan, "rollouts/s", "GFLOP/s", "share")
    notes: list[str] = []
    iterations = int(config["planner"]["options"].get("iterations", 1))
    for batch in (1, len(starts)):
        seen = Observation.stack(starts[:batch])
        parts = Parts(model, strategy, seen, device)
        before = matrix_product_gflops(dtype, device)
        timed = (parts.plan, parts.encode, parts.imagine, parts.judge, parts.propose)
        plan, encode, imagine, judge, propose = median_ms(timed, REPEATS, WARM_UP, device)
        peak = (before + matrix_product_gflops(dtype, device)) / 2
        with FlopCounterMode(display=False) as counter:
            parts.imagine()
        sequences = parts.actions.shape[0] * parts.actions.shape[1]
        achieved = counter.get_total_flops() / imagine / 1e6
        search = plan - encode - iterations * (imagine + judge) - propose
        row = [f"{x:.1f}" for x in (plan, encode, iterations * imagine, iterations * judge, propose, search)]
        share = f"{achieved / peak:.0%} of {peak:.0f}"
        found.add_row(str(batch), *row, f"{1e3 * sequences / imagine:,.0f}", f"{achieved:.0f}", share)
        if plain is None:
            uncast, cast = median_ms((parts.imagine_in_training, parts.imagine), REPEATS, WARM_UP, device)
            notes.append(
                f"{batch} environments: imagining takes {cast / uncast:.2f} of the time with weights cast once"
            )
        else:
            both = (Parts(plain, strategy, seen, device).imagine, parts.imagine)
            eager, compiled = median_ms(both, REPEATS, WARM_UP, device)
            notes.append(f"{batch} environments: imagining takes {compiled / eager:.2f} of the time with compile=false")
    console.print(found)
    console.print("\n".join(notes))
    console.print(
        f"a rollout: one action sequence imagined {strategy.controller.horizon} control steps ahead; "
        "share: of a matrix product's rate on this machine, measured in the same run"
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        fail(str(error))
