"""Make clips of possible and impossible physics: `python -m envs.physics_clips`.

This entry module joins `envs`, `worldmodel.data` and `worldmodel.surprise`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from envs.violations.making import WORLDS, ClipMaker, Condition
from envs.violations.scene import MARGIN, Clip
from envs.world import require_size
from worldmodel.cli.command import Config, command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.progress import Steps
from worldmodel.core.errors import choices_message
from worldmodel.core.files import output_folder
from worldmodel.core.options import from_config
from worldmodel.core.seeds import FIRST_EVALUATION_SEED
from worldmodel.data import Episode, EpisodeWriter, TrajectoryStore
from worldmodel.surprise.labels import LABELS, STORE, PairLabel, write_labels

PAIRS, TRAINING = "pairs", "training"
# A break with its margins, and room for the things to pass in any of the rows between.
_LEAST_FRAMES = 2 * MARGIN + 8


@dataclasses.dataclass(frozen=True)
class ClipOptions:
    """Options of the clips.

    Attributes:
        world: `stage` or `push`.
        set: `pairs`, or `training` for possible clips alone.
        properties: the properties, all of the world if there are none.
        scenes: scenes of each property and variant, with two pairs each.
        clips: clips of the training set.
        frames: frames of a clip.
        image_size: height and width of the images [pixels].
        seed: seed of everything.
        out: folder of the recording.
    """

    world: str = "stage"
    set: str = PAIRS
    properties: tuple[str, ...] = ()
    scenes: int = 100
    clips: int = 1500
    frames: int = 24
    image_size: int = 64
    seed: int = 0
    out: str = "runs/physics/stage"

    def __post_init__(self) -> None:
        if self.world not in WORLDS:
            raise ValueError(choices_message("world", self.world, WORLDS))
        if self.set not in (PAIRS, TRAINING):
            raise ValueError(choices_message("set", self.set, (PAIRS, TRAINING)))
        for name, least in (("scenes", 1), ("clips", 1), ("frames", _LEAST_FRAMES), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: expected a whole number of at least {least}")
        require_size(self.image_size, self.image_size)
        if not self.out:
            raise ValueError("out is empty: expected a path")


def make_pairs(options: ClipOptions, maker: ClipMaker, conditions: tuple[Condition, ...]) -> Path:
    """Write the pairs and their labels. Returns the path of the recording."""
    pairs = list(maker.pairs(conditions, options.scenes, options.seed))
    clips = (clip for labelled in pairs for clip in (labelled.pair.possible, labelled.pair.impossible))
    path = Path(options.out) / STORE
    _record(options, maker, path, clips, 2 * len(pairs))
    labels = [
        PairLabel(
            labelled.condition.property,
            labelled.condition.variant,
            labelled.pair.violation,
            labelled.scene,
            possible=2 * number,
            impossible=2 * number + 1,
            break_row=labelled.pair.break_row,
        )
        for number, labelled in enumerate(pairs)
    ]
    write_labels(labels, TrajectoryStore.open(path), path.with_name(LABELS))
    return path


def make_training(options: ClipOptions, maker: ClipMaker, conditions: tuple[Condition, ...]) -> Path:
    """Write possible clips alone. Returns the path of the recording."""
    path = Path(options.out) / f"{TRAINING}.zarr"
    _record(options, maker, path, maker.possible(conditions, options.clips, options.seed), options.clips)
    return path


def _record(options: ClipOptions, maker: ClipMaker, path: Path, clips: Iterable[Clip], number: int) -> None:
    """Write episodes of `clips` that are not there yet."""
    used = ("world", "set", "properties", "frames", "seed", "scenes" if options.set == PAIRS else "clips")
    recording = {name: value for name, value in dataclasses.asdict(options).items() if name in used}
    first_seed = FIRST_EVALUATION_SEED if options.set == PAIRS else 0
    progress = Steps(stays=False)
    with EpisodeWriter(path, maker.spec, recording) as writer:
        present = writer.num_episodes
        progress.begin("clips", present, number)
        try:
            for done, episode in enumerate(_episodes(maker, clips, present, first_seed), start=present + 1):
                writer.append(episode)
                progress.step(done, f"{done} clips")
            writer.commit()
        finally:
            progress.end()


def _episodes(maker: ClipMaker, clips: Iterable[Clip], present: int, first_seed: int) -> Iterator[Episode]:
    for index, clip in enumerate(clips):
        if index >= present:
            images, proprio = maker.show(clip)
            yield Episode(images, clip.actions, proprio, clip.states, seed=first_seed + index)


@command("physics_clips")
def main(config: Config) -> None:
    """Make the clips."""
    options = from_config(ClipOptions, plain_options(config), "physics_clips")
    maker = WORLDS[options.world](options.image_size, options.frames)
    try:
        conditions = maker.choose(options.properties)
        output_folder(options.out)
        make = make_pairs if options.set == PAIRS else make_training
        path = make(options, maker, conditions)
    finally:
        maker.world.close()
    store = TrajectoryStore.open(path)
    console.print(f"recording: {path} · {store.num_episodes} clips of {options.frames} frames")
    if options.set == PAIRS:
        console.print(f"pairs: {path.with_name(LABELS)}\nnext: python -m worldmodel.physics data={options.out}")


if __name__ == "__main__":
    main()
