"""Measures what tuning the encoder with the keypoints is worth, against the frozen encoder.

python -m benchmarks.learning.tuning                          # takes hours, resumes when repeated
python -m benchmarks.learning.tuning pairs=20 episodes=600    # a quick look
python -m benchmarks.learning.tuning data=runs/push/data.zarr encoder_from=runs/push/encoder

Two encoders are tuned, that of a pretraining and one with random weights, which has most to learn. All trainings have
the same steps and seeds. The table has the accuracy of the perception on held-out episodes, the error of imagined
states, and success on pairs of start and goal that no training and no other choice has seen. It compares each with the
frozen encoder pair by pair.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.learning.encoders import run
from benchmarks.options import read_all
from planning.compare import Comparison, read_method
from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError

RUNS = Path("runs/tuning")
TUNED = ("none", "last:2", "all")
# Figures of the stages' logs: keypoints, and the predictor.
FIGURES = {
    "tokens_r2": "cameras/camera/keypoints",
    "error_over_copy_12": "",
    "action_ranking": "",
}
EVALUATE = ("planner=cem", "oracle=false", "baselines=false", "batch=20", "videos=0")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained and how much is evaluated.

    Attributes:
        data: a recording of push; empty for a new one of `episodes` episodes.
        encoder_from: a pretraining on it; empty for a new one.
        episodes: episodes of a new recording.
        seeds: trainings of each kind.
        pairs: pairs of start and goal.
        pairs_seed: seed of the pairs, which no other experiment has.
    """

    data: str = ""
    encoder_from: str = ""
    episodes: int = 2500
    seeds: int = 1
    pairs: int = 100
    pairs_seed: int = 6200


def folder(encoder: str, tuned: str, seed: int) -> Path:
    """The folder of one training and its evaluation."""
    return RUNS / f"{encoder}_{tuned.replace(':', '')}_{seed}"


def last_figures(run_folder: Path) -> dict[str, float]:
    """The last value of every one of `FIGURES` in the logs of a training."""
    found = {}
    for name, place in FIGURES.items():
        for line in (run_folder / "model" / place / "log.jsonl").read_text().splitlines():
            values: dict[str, Any] = json.loads(line)
            if values.get(name) is not None:
                found[name] = float(values[name])
    return found


def train_and_evaluate(options: Options, data: str, sources: dict[str, str]) -> None:
    """Train and evaluate what is missing."""
    for seed in range(options.seeds):
        for encoder, source in sources.items():
            for tuned in TUNED:
                console.rule(f"{encoder} encoder, tuned: {tuned}, seed {seed}")
                place = folder(encoder, tuned, seed)
                given = (f"data={data}", f"cache={RUNS}/frames.npy", f"encoder_from={source}", f"trainer.seed={seed}")
                run("worldmodel.train", *given, f"tuning.encoder={tuned}", f"out={place}/model")
                pairs = (f"manifest.seed={options.pairs_seed}", f"manifest.n={options.pairs}")
                run("planning.evaluate", *EVALUATE, *pairs, f"checkpoint={place}/model", f"out={place}/evaluation")


def table(options: Options, encoders: list[str]) -> str:
    """The results as Markdown."""
    lines = [
        f"| encoder | tuned | {' | '.join(FIGURES)} | any step | at the end | against frozen, at the end |",
        "|---|---|---|---|---|---|---|---|",
    ]
    seeds = range(options.seeds)
    for encoder in encoders:
        methods = {
            tuned: read_method([str(folder(encoder, tuned, seed) / "evaluation") for seed in seeds]) for tuned in TUNED
        }
        for tuned, method in methods.items():
            figures = [last_figures(folder(encoder, tuned, seed)) for seed in seeds]
            means = [f"{sum(one[name] for one in figures) / len(figures):.3f}" for name in FIGURES]
            found = {
                name: Comparison.of(method.outcomes[name], methods["none"].outcomes[name], resamples=10_000, seed=0)
                for name in ("any step", "at the end")
            }
            gain = found["at the end"]
            shown = f"{100 * gain.difference:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}), p = {gain.p:.2g}"
            cells = (encoder, tuned, *means, found["any step"].a, gain.a, "" if tuned == "none" else shown)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Record, pretrain, train and evaluate what is missing, and print the table."""
    data, pretrained = options.data or f"{RUNS}/data.zarr", options.encoder_from or f"{RUNS}/encoder"
    if not options.data:
        run("envs.collect", f"episodes={options.episodes}", f"out={data}")
    if not options.encoder_from:
        run("worldmodel.pretrain", f"data={data}", f"cache={RUNS}/frames.npy", f"out={pretrained}")
    sources = {"pretrained": pretrained, "random": "random"}
    train_and_evaluate(options, data, sources)
    result = table(options, list(sources))
    (RUNS / "table.md").write_text(result + "\n")
    console.print(result, markup=False)


if __name__ == "__main__":
    try:
        main(read_all(Options, sys.argv[1:]))
    except UserError as error:
        names = ", ".join(f"{field.name}={field.default}" for field in dataclasses.fields(Options))
        fail(f"{error}; options are {names}")
