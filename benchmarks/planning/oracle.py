"""Success of the oracle alone, for a task that has no world model yet.

python -m benchmarks.planning.oracle env=arm_push manifest.seed=903 manifest.n=20

Options are those of planning.evaluate. Finished episodes are kept in `runs/<env>/oracle/`, and the same command
continues after an interruption.
"""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np

from planning.display import EpisodeProgress
from planning.evaluation.episodes import Episode, EpisodeLog, run_all
from planning.evaluation.manifest import ManifestConfig, load_or_draw
from planning.evaluation.oracle import ORACLE_VERSION, Oracle
from planning.evaluation.report import Rate
from planning.loading import RUNS
from planning.registry import make_strategy
from planning.simulation import open_env
from worldmodel.cli.command import as_plain, composed, fail
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting
from worldmodel.cli.tables import table
from worldmodel.core.errors import UserError
from worldmodel.core.options import from_config


def main(arguments: list[str]) -> None:
    """Print rates of success, of all pairs and by kind of goal."""
    options = as_plain(composed("evaluate", arguments))
    config = from_config(ManifestConfig, options["manifest"], "manifest")
    env, spec = open_env(options["env"])
    try:
        with counting("draw pairs", "pairs") as progress:
            manifest = load_or_draw(env, spec.simulator, spec.options, config, progress)
        settings = {name: options[name] for name in ("planner", "seed")}
        settings |= {"manifest": manifest.sha256, "oracle": ORACLE_VERSION}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        log = EpisodeLog(RUNS / spec.env / "oracle" / f"{key}-{options['budget']}.jsonl")
        oracle = Oracle([env], spec, make_strategy(options["planner"], options["seed"]))
        with EpisodeProgress(f"{spec.env}: oracle", len(manifest.pairs), options["budget"]) as progress:
            episodes = run_all([env], manifest.pairs, oracle, options["budget"], log, progress.update)
        kinds = [env.goal_kind(np.array(pair.start), np.array(pair.goal)) for pair in manifest.pairs]
    finally:
        env.close()
    groups: dict[str, list[Episode]] = {"all": episodes}
    for kind, episode in zip(kinds, episodes, strict=True):
        if kind:
            groups.setdefault(kind, []).append(episode)
    shown = table(
        f"{spec.env}: the oracle on {len(episodes)} pairs ({manifest.sha256[:12]})", "goals", "n", "any", "held"
    )
    for name, group in groups.items():
        rates = (Rate.of([e.success_any for e in group]), Rate.of([e.success_final for e in group]))
        shown.add_row(name, str(len(group)), *map(str, rates))
    console.print(shown)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        fail(str(error))
