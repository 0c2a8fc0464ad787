"""Measures the benefit of pretraining. V-JEPA is compared with a random frozen encoder and with downsampled pixels.

python -m benchmarks.learning.encoders                       # three seeds of each, takes hours, resumes when repeated
python -m benchmarks.learning.encoders seeds=1 pairs=20      # a quick look

The data are much video in which floor, light, colours and background differ from episode to episode, and robot
trajectories in one plain room. V-JEPA learns from the video. Keypoints, appearance embedding and predictor are then
trained on the plain trajectories, with the same steps for every encoder. All models are evaluated in the plain room and
with distractors, on the frozen manifests, pair by pair.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

from planning.compare import Comparison, read_method
from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError

RUNS = Path("runs/encoders")
VIDEO, ROBOT = RUNS / "video.zarr", RUNS / "robot.zarr"
ENCODERS = ("vjepa", "random", "pixels")
ROOMS = {"plain": (), "distractors": ("env.distractors=true",)}
EPISODES = 2500
PRETRAIN = (
    f"data={VIDEO}",
    f"cache={RUNS}/video.npy",
    f"canonical_data={ROBOT}",
    f"canonical_cache={RUNS}/robot.npy",
    "jepa.targets=whiten",
    "jepa.loss=l2",
    "jepa.visible_weight=1",
    "pretrain.momentum=0.998",
    "pretrain.colour_jitter=0.2",
    "trainer.steps=1000",
)
TRAIN = (
    f"data={ROBOT}",
    f"cache={RUNS}/robot.npy",
    "state_trainer.steps=1500",
    "appearance_trainer.steps=1500",
    "trainer.steps=4000",
)
# Each plan is executed for the four control steps of a knot, which takes a quarter of the time.
EVALUATE = ("planner=cem", "planner.execute=4", "oracle=false", "baselines=false", "batch=20", "videos=0")


@dataclasses.dataclass(frozen=True)
class Options:
    """The size of the benchmark.

    Attributes:
        seeds: trainings with each encoder.
        pairs: pairs of each frozen manifest, at most 100.
    """

    seeds: int = 3
    pairs: int = 100


def run(module: str, *overrides: str) -> None:
    """Run `python -m <module> <overrides>`, which resumes after an interruption. Exits if the command fails."""
    ended = subprocess.run([sys.executable, "-m", module, "env=push", *overrides], check=False)
    if ended.returncode:
        raise SystemExit(ended.returncode)


def evaluation(encoder: str, seed: int, room: str, pairs: int) -> Path:
    """The folder of one evaluation."""
    return RUNS / f"{encoder}_{seed}" / f"{room}_{pairs}"


def train_and_evaluate(encoder: str, seed: int, pairs: int) -> None:
    """Train one method once, and evaluate it in both rooms."""
    folder = RUNS / f"{encoder}_{seed}"
    source = encoder
    if encoder == "vjepa":
        source = str(folder / "encoder")
        run("worldmodel.pretrain", *PRETRAIN, f"trainer.seed={seed}", f"out={source}")
    model = folder / "model"
    run("worldmodel.train", *TRAIN, f"trainer.seed={seed}", f"encoder_from={source}", f"out={model}")
    for room, options in ROOMS.items():
        out = evaluation(encoder, seed, room, pairs)
        run("planning.evaluate", *options, *EVALUATE, f"manifest.n={pairs}", f"checkpoint={model}", f"out={out}")


def table(options: Options) -> str:
    """The results as Markdown, with success rates, their intervals, and V-JEPA compared with each other encoder."""
    lines = [
        "| room | encoder | success at any step | held at the end | V-JEPA's gain, any step | the same, at the end |",
        "|---|---|---|---|---|---|",
    ]
    for room in ROOMS:
        methods = {
            encoder: read_method([str(evaluation(encoder, s, room, options.pairs)) for s in range(options.seeds)])
            for encoder in ENCODERS
        }
        for encoder, method in methods.items():
            found = [
                Comparison.of(methods["vjepa"].outcomes[name], method.outcomes[name], resamples=10_000, seed=0)
                for name in ("any step", "at the end")
            ]
            gains = ["" if encoder == "vjepa" else _gain(comparison) for comparison in found]
            lines.append(f"| {room} | {encoder} | {found[0].b} | {found[1].b} | {' | '.join(gains)} |")
    return "\n".join(lines)


def _gain(comparison: Comparison) -> str:
    """The difference in percentage points with its interval, and McNemar's p."""
    low, high = 100 * comparison.low, 100 * comparison.high
    return f"{100 * comparison.difference:+.1f} ({low:+.1f} to {high:+.1f}), p = {comparison.p:.2g}"


def main(options: Options) -> None:
    """Record, train and evaluate what is missing, and print the table."""
    for path, distractors in ((VIDEO, True), (ROBOT, False)):
        run("envs.collect", f"env.distractors={str(distractors).lower()}", f"episodes={EPISODES}", f"out={path}")
    for seed in range(options.seeds):
        for encoder in ENCODERS:
            console.rule(f"{encoder}, seed {seed}")
            train_and_evaluate(encoder, seed, options.pairs)
    result = table(options)
    (RUNS / "table.md").write_text(result + "\n")
    console.print(result, markup=False)


if __name__ == "__main__":
    try:
        main(Options(**{key: int(value) for key, value in (a.split("=", 1) for a in sys.argv[1:])}))
    except (UserError, TypeError, ValueError) as error:
        fail(f"{error}; options are seeds=3 and pairs=100")
