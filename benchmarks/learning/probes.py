"""What pretraining teaches about motion: probes of encoders that were trained in different ways, on the same clips.

python -m benchmarks.learning.probes                         # all arms, three seeds, takes hours, resumes when repeated
python -m benchmarks.learning.probes seeds=1 arms=vjepa,random,pixel_targets tasks=direction,order steps=300

Clips are those of `envs.clips`, whose labels no still frame shows. Every arm is pretrained on the clips to train on of
all tasks together, without labels, for the same number of steps on batches of the same size. Probes are then trained on
each task, chosen on its clips to choose by, and reported on others. Intervals are 95 % bootstrap intervals over clips,
and over seeds where there are several. Differences are paired by clip and seed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.options import read_all
from envs.motion.motions import TASKS
from worldmodel.cli.command import fail
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.files import write_json
from worldmodel.encoders.probes.measures import bootstrap_interval

FRAMES, SIZE = 8, 64
POINTS: Final = "occlusion_points"  # the place of the object in every frame of the clips of `occlusion`


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to get an encoder.

    Attributes:
        what: what it is, in words.
        ready: name of an encoder that needs no pretraining, if it is one.
        pretrain: options of the pretraining.
        encoder: options of the encoder's shape.
        share: share of the clips that it is pretrained on.
    """

    what: str
    ready: str | None = None
    pretrain: tuple[str, ...] = ()
    encoder: tuple[str, ...] = ()
    share: float = 1.0


REFERENCE: Final = "vjepa"
ARMS: Final = {
    REFERENCE: Arm("V-JEPA, spatial masks, joint attention"),
    "random": Arm("random weights", ready="random"),
    "pixels": Arm("raw pixels", ready="pixels"),
    "pixel_targets": Arm("predicts pixels, as VideoMAE", pretrain=("jepa.targets=pixels", "jepa.loss=l2")),
    "future": Arm("future-biased masks", pretrain=("pretrain.masks=[{kind: future_biased}]",)),
    "factorised": Arm(
        "factorised attention",
        encoder=("encoder.attention=factorised", "encoder.depth=2", "encoder.temporal_depth=2"),
    ),
    "quarter": Arm("a quarter of the clips", share=0.25),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The size of the benchmark.

    Attributes:
        seeds: trainings of each arm, and of its probes.
        train, val, test: clips of each task.
        distractors: `true` for random light, floors and backgrounds, or `false` for a plain scene.
        steps: steps of each pretraining.
        batch: clips of a step.
        epochs: epochs of each probe.
        depth: blocks of the attentive probes.
        learning_rates, weight_decays: those of the probes, as the command takes them.
        arms: names of arms, with commas between them.
        tasks: names of tasks, likewise.
        runs: folder of everything.
    """

    seeds: int = 3
    train: int = 2000
    val: int = 400
    test: int = 1000
    distractors: str = "true"
    steps: int = 1500
    batch: int = 32
    epochs: int = 20
    depth: int = 1
    learning_rates: str = "[0.005,0.003,0.001,0.0003,0.0001]"
    weight_decays: str = "[0.01,0.1,0.4,0.8]"
    arms: str = ",".join(ARMS)
    tasks: str = ",".join([*TASKS, POINTS])
    runs: str = "runs/probes"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise UserError(f"{name} {value}: expected a whole number of at least 1")
        if self.distractors not in ("true", "false"):
            raise UserError(f"distractors {self.distractors}: expected true or false")
        for what, names, accepted in (("arm", self.arm_names, ARMS), ("task", self.task_names, [*TASKS, POINTS])):
            for name in names:
                if name not in accepted:
                    raise UserError(choices_message(what, name, accepted))

    @property
    def arm_names(self) -> list[str]:
        """The names of the arms."""
        return self.arms.split(",")

    @property
    def task_names(self) -> list[str]:
        """The names of the tasks."""
        return self.tasks.split(",")

    @property
    def folder(self) -> Path:
        """The folder of everything."""
        return Path(self.runs)


def run(module: str, *overrides: str) -> None:
    """Run `python -m <module> <overrides>`, which resumes after an interruption. Exits if the command fails."""
    ended = subprocess.run([sys.executable, "-m", module, *overrides], check=False)
    if ended.returncode:
        raise SystemExit(ended.returncode)


def make_clips(options: Options) -> None:
    """Write the clips of all tasks, and lists of those to pretrain on."""
    for task in TASKS:
        chosen = [f"{name}={getattr(options, name)}" for name in ("train", "val", "test", "distractors")]
        run("envs.clips", f"task={task}", *chosen, f"frames={FRAMES}", f"size={SIZE}", f"out={options.folder / task}")
    for share in sorted({ARMS[name].share for name in options.arm_names}):
        paths = []
        for task in TASKS:
            found = sorted((options.folder / task / "train").glob("*/*.mp4"), key=lambda path: path.name)
            paths += found[: round(share * len(found))]
        list_of(options, share).write_text("".join(f"{path.relative_to(options.folder)}\n" for path in paths))


def list_of(options: Options, share: float) -> Path:
    """The list of the clips of an arm."""
    return options.folder / f"clips_{share:g}.txt"


def encoder_of(options: Options, name: str, seed: int) -> str:
    """Pretrain an arm, or go on, or find it finished. Returns what `encoder_from` needs."""
    arm = ARMS[name]
    if arm.ready is not None:
        return arm.ready
    out = options.folder / f"{name}_{seed}" / "encoder"
    run(
        "worldmodel.pretrain", f"data={list_of(options, arm.share)}", f"cache={options.folder / 'frames.npy'}",
        f"out={out}", f"clips.frames={FRAMES}", "clips.strides=[1]", f"videos.size={SIZE}",
        "augmentation.crop_scale=[0.5,1.0]", f"trainer.steps={options.steps}", f"trainer.batch_size={options.batch}",
        f"trainer.seed={seed}", *arm.pretrain, *arm.encoder,
    )  # fmt: skip
    return str(out)


def figures_file(options: Options, name: str, seed: int, task: str) -> Path:
    """The figures of the probes of one arm on one task."""
    return options.folder / f"{name}_{seed}" / f"{task}.json"


def probe(options: Options, name: str, seed: int, task: str, encoder: str) -> None:
    """Probe one encoder on one task, unless its figures are there."""
    out = figures_file(options, name, seed, task)
    if out.exists():
        return
    features = options.folder / "features"
    data, reads = (options.folder / "occlusion", "points") if task == POINTS else (options.folder / task, "classes")
    run(
        "worldmodel.probe", f"data={data}", f"read={reads}", f"encoder_from={encoder}", f"features={features}",
        f"labelled.frames={FRAMES}", "labelled.stride=1", f"labelled.size={SIZE}", f"grid.epochs={options.epochs}",
        f"grid.learning_rates={options.learning_rates}", f"grid.weight_decays={options.weight_decays}",
        f"grid.depth={options.depth}", f"grid.seed={seed}", f"seed={seed}", f"out={out}", *ARMS[name].encoder,
    )  # fmt: skip
    shutil.rmtree(features)  # those of one task take some hundred megabytes


def values_of(options: Options, name: str, task: str, kind: str) -> NDArray[np.float64]:
    """Right answers [%], or errors in pixels, `[seeds, clips]`. NaN for a clip without a visible point."""
    rows = []
    for seed in range(options.seeds):
        found = json.loads(figures_file(options, name, seed, task).read_text())["probes"][kind]
        numbers = found["errors" if task == POINTS else "right"]
        scale = SIZE if task == POINTS else 100
        rows.append([np.nan if number is None else scale * number for number in numbers])
    return np.array(rows, np.float64)


def table(options: Options) -> str:
    """The results as Markdown: a row for each task, probe and arm, with intervals."""
    lines = [
        f"| task | probe | arm | mean (n = {options.seeds} x {options.test}) | less than V-JEPA's |",
        "|---|---|---|---|---|",
    ]
    for task in options.task_names:
        unit = "pixels" if task == POINTS else "%"
        for kind in ("linear", "attentive"):
            values = {name: values_of(options, name, task, kind) for name in options.arm_names}
            for name, found in values.items():
                there = ~np.isnan(found[0])  # alike for all arms, as clips are
                gain = "" if name == REFERENCE or REFERENCE not in values else _shown(
                    values[REFERENCE][:, there] - found[:, there]
                )  # fmt: skip
                lines.append(f"| {task} [{unit}] | {kind} | {ARMS[name].what} | {_shown(found[:, there])} | {gain} |")
    return "\n".join(lines)


def _shown(values: NDArray[np.float64]) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():.1f} ({low:.1f} to {high:.1f})"


def begin(options: Options) -> None:
    """Make the folder, or refuse one with figures of other sizes. Seeds, arms and tasks may be added."""
    options.folder.mkdir(parents=True, exist_ok=True)
    sizes = {key: value for key, value in vars(options).items() if key not in ("seeds", "arms", "tasks", "runs")}
    about = options.folder / "options.json"
    present = json.loads(about.read_text()) if about.exists() else sizes
    for key, value in sizes.items():
        if present.get(key) != value:
            had = present.get(key)
            raise UserError(f"{options.folder} has figures with {key}={had}, not {value}: give another runs=")
    write_json(sizes, about)


def main(options: Options) -> None:
    """Make, train and probe what is missing, and print the table."""
    begin(options)
    make_clips(options)
    for seed in range(options.seeds):
        for name in options.arm_names:
            console.rule(f"{name}, seed {seed}")
            encoder = encoder_of(options, name, seed)
            for task in options.task_names:
                probe(options, name, seed, task, encoder)
    result = table(options)
    (options.folder / "table.md").write_text(result + "\n")
    console.print(result, markup=False)


if __name__ == "__main__":
    try:
        main(read_all(Options, sys.argv[1:]))
    except UserError as error:
        fail(str(error))
