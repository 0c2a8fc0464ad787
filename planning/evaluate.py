"""Success rates on a manifest, with baselines and an oracle.

python -m planning.evaluate env=push
python -m planning.evaluate env=push checkpoint=runs/push/model manifest.seed=7 oracle=false
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from envs.protocol import GoalEnv
from planning.choice import write_choice
from planning.display import EpisodeProgress, comparison_table, summary_table
from planning.evaluation.comparison import OUTCOMES, Comparison
from planning.evaluation.episodes import Episode, EpisodeLog, run_all
from planning.evaluation.latency import measure_plan_ms
from planning.evaluation.manifest import Manifest, ManifestConfig, load_or_draw
from planning.evaluation.media import side_by_side, write_video
from planning.evaluation.options import EpisodesConfig
from planning.evaluation.oracle import ORACLE_VERSION, Oracle
from planning.evaluation.policies import Exploration, InversePolicy, NoAction, UniformRandom, WorldModelPolicy
from planning.evaluation.promises import Known
from planning.evaluation.reality import Reality, RealityCheck, states_on_the_way
from planning.evaluation.report import Summary, Timing, episode_record
from planning.evaluation.rollout import Policy
from planning.hierarchy import HierarchyConfig
from planning.inputs import read_start
from planning.loading import (
    RUNS,
    Checkpoint,
    choose_checkpoint,
    chosen_planner,
    content_hash,
    read_acting_heads,
    read_hierarchy,
    read_model,
    with_proposals,
)
from planning.registry import make_strategy
from planning.simulation import open_env, open_more
from planning.strategy import Strategy
from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console, escape
from worldmodel.cli.progress import counting
from worldmodel.core.checkpoint import resolve, shipped_names
from worldmodel.core.device import pick_compile, pick_device, pick_precision
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_folder, write_json
from worldmodel.core.options import from_config
from worldmodel.core.shards import Shard, files_of_shards
from worldmodel.core.spec import EnvironmentSpec

MODEL, ORACLE = "world model", "oracle"
# Names of heads in options and results, and their titles.
HEADS: Final = {"inverse": "inverse dynamics", "cloning": "behaviour cloning"}
BASELINES: Final = ("no_op", "random", "explorer", *HEADS)
# Increased when the same options give other plans. Logged episodes of older versions are then not used any more.
_PLANNING_VERSION: Final = 3
_EXPLORATION_VERSION: Final = 1  # likewise, of exploration
_KNOWN, _MOST_KNOWN = 40, 4000  # states from which a network learns to read latents: for each checked plan, and at most
_RESAMPLES: Final = 2000  # of the intervals of differences, which then vary by a tenth of a point or two


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(EpisodesConfig):
    """The options in `configs/evaluate.yaml` beside its groups. The file explains each."""

    hierarchy: str | None
    baselines: bool
    inverse: str | None
    cloning: str | None
    oracle: bool
    write_planner: bool
    videos: int
    reality: int
    shard: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard is not None and Shard.read(self.shard) and self.write_planner:
            raise ValueError(f"write_planner=true with shard={self.shard}: expected no shard, which knows no result")
        if min(self.videos, self.reality) < 0:
            raise ValueError(f"videos={self.videos} reality={self.reality}: numbers from 0 up are accepted")


@dataclasses.dataclass
class Evaluation:
    """An evaluation in progress, with its options, its environments and its results so far."""

    options: EvaluateConfig
    planner: dict[str, Any]
    envs: list[GoalEnv]
    spec: EnvironmentSpec
    manifest: Manifest
    checkpoint: Checkpoint

    def key(self, **decisive: Any) -> str:
        """Hash of everything that decides an outcome. A logged episode with the same hash need not run again.

        `batch` is not part of it, because the other episodes of a batch make no difference.
        """
        common = {
            "planning": _PLANNING_VERSION,
            "manifest": self.manifest.sha256,
            "simulator": self.spec.simulator,
            "options": self.spec.options,
            "budget": self.options.budget,
            "seed": self.options.seed,
        }
        if self.options.command is not None:
            common["command"] = self.options.command
        return hashlib.sha256(json.dumps({**common, **decisive}, sort_keys=True).encode()).hexdigest()[:12]

    def run(self, title: str, policy: Policy, name: str, key: str) -> list[Episode]:
        """Every episode of `policy`, resumed from its log, with a progress bar."""
        path = RUNS / self.spec.env / "evaluate" / "episodes" / f"{name}-{key}.jsonl"
        own = path if self.shard is None else self.shard.beside(path)
        log = EpisodeLog(own, [other for other in (path, *files_of_shards(path)) if other != own])
        pairs, budget, indices = self.manifest.pairs, self.options.budget, self.indices
        with EpisodeProgress(f"{self.spec.env}: {title}", len(indices), budget) as progress:
            return run_all(self.envs, pairs, policy, budget, log, progress.update, indices)

    @property
    def shard(self) -> Shard | None:
        """The part of the pairs that this command runs, None for all of them."""
        return None if self.options.shard is None else Shard.read(self.options.shard)

    @property
    def indices(self) -> range:
        """The pairs that this command runs."""
        count = len(self.manifest.pairs)
        return range(count) if self.shard is None else self.shard.of(count)

    def run_baselines(self, start: NDArray[np.float32] | None) -> dict[str, list[Episode]]:
        """Every episode of the policies that know no goal."""
        wild, idle = UniformRandom(self.spec, self.options.seed, start), NoAction(self.spec, start)
        exploring = Exploration(self.spec, self.envs, self.options.seed, start)
        return {
            "random": self.run("random actions", wild, "random", self.key()),
            "no_op": self.run("no action", idle, "no_op", self.key()),
            "explorer": self.run(
                "exploration without a goal", exploring, "explorer", self.key(exploration=_EXPLORATION_VERSION)
            ),
        }


def evaluate(config: Config) -> None:
    """Run `python -m planning.evaluate`. Raises UserError for input that cannot be used."""
    options = from_config(EvaluateConfig, plain_options(config), "evaluate")
    manifest_config = from_config(ManifestConfig, config["manifest"], "manifest")
    sub_goals = from_config(HierarchyConfig, config["sub_goals"], "sub_goals")
    device = pick_device(options.device)
    options = dataclasses.replace(options, precision=pick_precision(options.precision, device))
    settings = chosen_planner(config["planner"], options.checkpoint, config["env"]["name"])
    strategy = make_strategy(settings, options.seed)
    if options.oracle and strategy.optimiser.needs_gradient:
        raise UserError(
            f"planner={settings['name']} follows a gradient, which the simulator does not have: oracle=false leaves "
            "the oracle out"
        )
    with contextlib.ExitStack() as opened:
        env, spec = open_env(config["env"])
        opened.callback(env.close)
        checkpoint = choose_checkpoint(options.checkpoint, spec.env)
        if options.write_planner and checkpoint.source in shipped_names():
            raise UserError(f"write_planner=true writes to the checkpoint's folder, and {checkpoint.title} is shipped")
        model = read_model(checkpoint, device, options.precision, options.compile, spec)
        hierarchy = read_hierarchy(options.hierarchy, sub_goals, model)
        heads = read_acting_heads(options.inverse, options.cloning, model)
        with counting("draw pairs", "pairs") as progress:
            manifest = load_or_draw(env, spec.simulator, spec.options, manifest_config, progress)
        task = Evaluation(options, settings, [env], spec, manifest, checkpoint)
        task.envs += open_more(config["env"], max(0, min(options.batch, len(task.indices)) - 1), opened)
        strategy = with_proposals(strategy, model)
        strategy.warn()
        _introduce(task, frozen=manifest_config.seed is None)
        start = read_start(options.command, spec.action)
        policy = WorldModelPolicy(model, strategy, device, start=start, hierarchy=hierarchy)
        compiled = pick_compile(options.compile, device)
        numerics = {"precision": options.precision, "compile": compiled, "device": device.type}
        further = {**strategy.proposed, **_identity(options, sub_goals)}
        key = task.key(planner=settings, checkpoint=checkpoint.sha256, **numerics, **further)
        out = output_folder(options.out or RUNS / spec.env / "evaluate" / key) if task.shard is None else None
        episodes = {MODEL: task.run(MODEL, policy, "model", key)}
        batched_ms = list(policy.plan_ms)
        plan_ms = measure_plan_ms(env, manifest.pairs[0], policy) if out is not None else []
        if options.oracle:
            oracle = Oracle(task.envs, spec, strategy, start)
            episodes[ORACLE] = task.run(ORACLE, oracle, "oracle", task.key(planner=settings, oracle=ORACLE_VERSION))
        if options.baselines:
            episodes |= task.run_baselines(start)
        for name, head in heads.items():
            predicting = InversePolicy(model, head, device, manifest.steps_ahead, start)
            decisive = task.key(checkpoint=checkpoint.sha256, device=device.type, **{name: head.identity})
            episodes[name] = task.run(HEADS[name], predicting, name, decisive)
        if out is None:
            _report_shard(task)
            return
        reality = _compare_with_reality(task, RealityCheck(env, model, strategy, device, start), episodes)
        rate = len(task.envs) * 1e3 / float(np.median(batched_ms)) if batched_ms else None
        timing = Timing(float(np.median(plan_ms)), float(np.percentile(plan_ms, 99)), len(task.envs), rate)
        _report(task, strategy, episodes, timing, reality, out, frozen=manifest_config.seed is None)


def _report_shard(task: Evaluation) -> None:
    console.print(
        f"shard {task.shard}: {len(task.indices)} of {len(task.manifest.pairs)} pairs are logged in "
        f"{RUNS / task.spec.env / 'evaluate' / 'episodes'}; once all shards are, the same command without shard joins "
        "them"
    )


def _identity(options: EvaluateConfig, sub_goals: HierarchyConfig) -> dict[str, Any]:
    """What tells evaluations with a hierarchy apart. Without one it is empty, as it was when there were none."""
    if options.hierarchy is None:
        return {}
    return {"hierarchy": content_hash(Path(options.hierarchy)), "sub_goals": dataclasses.asdict(sub_goals)}


def _introduce(task: Evaluation, frozen: bool) -> None:
    origin = "frozen" if frozen else f"drawn with seed {task.manifest.seed}"
    console.print(
        f"evaluating {escape(task.checkpoint.title)} on {len(task.manifest.pairs)} pairs ({origin}, "
        f"{task.manifest.sha256[:12]}), {task.options.budget} steps each"
    )
    for what, frozen_value, here in (
        ("simulator", task.manifest.simulator, task.spec.simulator),
        ("options", task.manifest.options, task.spec.options),
    ):
        if frozen_value != here:
            console.print(f"[yellow]note[/]: the pairs were made with {what} {frozen_value}, this is {here}")


def _compare_with_reality(
    task: Evaluation, check: RealityCheck, episodes: Mapping[str, Sequence[Episode]]
) -> Reality | None:
    """Plans against reality, from states that the model's episodes came through."""
    count, seed = task.options.reality, task.options.seed
    if not count:
        return None
    states, owners = states_on_the_way([episode.states for episode in episodes[MODEL]], count, seed)
    everywhere = [episode.states for run in episodes.values() for episode in run]
    seen, of = states_on_the_way(everywhere, min(_KNOWN * count, _MOST_KNOWN), seed + 1)
    # All runs have the same starts, and the model's comes first.
    pairs = len(episodes[MODEL])
    known = Known(seen, groups=of % pairs, judged=of < pairs)
    goals = [np.array(task.manifest.pairs[episode].goal) for episode in owners]
    return check.measure(states, goals, known, counting)


def _report(
    task: Evaluation,
    strategy: Strategy,
    episodes: dict[str, list[Episode]],
    timing: Timing,
    reality: Reality | None,
    out: Path,
    frozen: bool,
) -> None:
    metrics, pairs = task.envs[0].metrics, task.manifest.pairs
    summaries = {name: Summary.of(run, metrics) for name, run in episodes.items()}
    against = {name: _against(episodes[MODEL], run) for name, run in episodes.items() if name != MODEL}
    videos = _write_videos(task, episodes[MODEL], out)
    results = {
        "task": task.spec.env,
        **summaries[MODEL].to_dict(),
        **dataclasses.asdict(timing),
        "plans_against_reality": None if reality is None else dataclasses.asdict(reality),
        # Baselines and oracle have the key names that results have had from the beginning.
        "floors": {name: summaries[name].to_dict() for name in BASELINES if name in summaries},
        "ceiling": summaries[ORACLE].to_dict() if ORACLE in summaries else None,
        "against": {
            name: {outcome: dataclasses.asdict(c) for outcome, c in found.items()} for name, found in against.items()
        },
        "metrics": {m.name: {"unit": m.unit, "tolerance": m.tolerance} for m in metrics},
        "manifest_hash": task.manifest.sha256,
        "manifest_seed": task.manifest.seed,
        "steps_ahead": task.manifest.steps_ahead,
        "budget": task.options.budget,
        "simulator": task.spec.simulator,
        "checkpoint": {"source": task.checkpoint.source, "sha256": task.checkpoint.sha256},
        "planner": task.planner,
        **strategy.proposed,
        "hierarchy": task.options.hierarchy,
        "precision": task.options.precision,
        "episodes": [episode_record(e, pairs[e.index].seed) for e in episodes[MODEL]],
    }
    write_json(results, out / "results.json", indent=1)
    _show(task, summaries, against)
    if reality is not None:
        console.print(str(reality), markup=False)
    console.print(f"one plan: median {timing.plan_ms_median:.0f} ms, p99 {timing.plan_ms_p99:.0f} ms")
    if timing.batched_plans_per_s is not None:
        console.print(f"batched by {timing.batch}: {timing.batched_plans_per_s:.1f} plans/s")
    console.print(f"results: {out / 'results.json'}" + (f"\nfailures: {videos[0].parent}" if videos else ""))
    if task.options.write_planner:
        judged = {key: results[key] for key in ("task", "n", "success_any", "success_final", "manifest_hash")}
        path = write_choice(resolve(task.checkpoint.source), task.planner, judged)
        console.print(f"planner=auto now takes planner={task.planner['name']} with these options: {escape(str(path))}")
    # planning.run takes pairs from the frozen manifest. It does not know pairs that were drawn for this evaluation.
    watch = [f"seed={_worth_watching(episodes[MODEL])}"] if frozen else []
    console.print(next_command("planning.run", *watch, checkpoint="checkpoint"))


def _show(task: Evaluation, summaries: dict[str, Summary], against: dict[str, dict[str, Comparison]]) -> None:
    """Print the rates of all policies, and pair by pair those that learned to act."""
    title = f"{task.spec.env}, n = {len(task.manifest.pairs)}: success in % (95 % interval), median error at the end"
    console.print(summary_table(title, summaries, task.envs[0].metrics))
    # How a policy that knows no goal compares needs no test.
    titles = {outcome: title for title, outcome in OUTCOMES.items()}
    learned = {
        f"{name}: {titles[outcome]}": c
        for name, found in against.items()
        if name in HEADS
        for outcome, c in found.items()
    }
    if learned:
        console.print(comparison_table(f"{MODEL} (a) against policies that act without a search (b)", learned))
    for name, summary in summaries.items():
        if summary.steps_without_plan:
            console.print(
                f"[yellow]note[/]: {name} had no usable plan in {summary.steps_without_plan} control steps, and "
                "rested in them"
            )


def _against(episodes: list[Episode], other: list[Episode]) -> dict[str, Comparison]:
    """Pair by pair, how `episodes` compare with those of another policy, at any step and at the end."""
    found = {}
    for outcome in ("success_any", "success_final"):
        ours, theirs = (np.array([[getattr(e, outcome) for e in run]]) for run in (episodes, other))
        found[outcome] = Comparison.of(ours, theirs, _RESAMPLES, seed=0)
    return found


def _worth_watching(episodes: Sequence[Episode]) -> int:
    """Index of the first failure, or of the first episode if there is none."""
    return next((e.index for e in episodes if not e.success_any), 0)


def _write_videos(task: Evaluation, episodes: Sequence[Episode], out: Path) -> list[Path]:
    env, paths = task.envs[0], []
    for episode in [e for e in episodes if not e.success_any][: task.options.videos]:
        goal = env.render_state(np.array(task.manifest.pairs[episode.index].goal))
        paths.append(out / "failures" / f"episode_{episode.index:03d}.mp4")
        write_video(paths[-1], side_by_side(env, np.array(episode.states), goal), 1 / env.control_step_s)
    return paths


main = command("evaluate")(evaluate)

if __name__ == "__main__":
    main()
