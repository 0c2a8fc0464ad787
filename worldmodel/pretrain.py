"""`python -m worldmodel.pretrain env=push`: trains a frozen encoder on recorded frames or videos by V-JEPA."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from worldmodel.cli.command import Config, command, next_command, plain_options, typed_options
from worldmodel.cli.console import console, shown
from worldmodel.cli.progress import counting, run_to_end
from worldmodel.cli.tables import Table, table
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.files import output_file, output_folder
from worldmodel.core.machine import require_memory
from worldmodel.core.options import from_config
from worldmodel.core.ranks import agreed, here
from worldmodel.core.spec import CameraSpec
from worldmodel.data.augmentation import AugmentationConfig
from worldmodel.data.clips import ClipConfig
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.data.videos.clips import VideoConfig
from worldmodel.encoders.base import Grid
from worldmodel.encoders.jepa.cost import Cost, costs
from worldmodel.encoders.jepa.inference import save_jepa
from worldmodel.encoders.jepa.masks import MaskFn
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.jepa.sources import ClipOptions, MixedClips, PretrainSource, RecordingClips, is_recording
from worldmodel.encoders.jepa.task import PretrainConfig, PretrainTask, bytes_per_clip
from worldmodel.encoders.registry import save_encoder
from worldmodel.encoders.vit import EncoderConfig
from worldmodel.training.parallel import DDP, PARALLEL
from worldmodel.training.recordings import open_recording
from worldmodel.training.runs import describe_run, open_or_find_finished
from worldmodel.training.trainer import Trainer, TrainerConfig


@dataclasses.dataclass(frozen=True)
class PretrainOptions:
    """The options in `configs/pretrain.yaml` beside its sections. The file explains each."""

    recipe: str
    data: str | tuple[str, ...]
    data_weights: tuple[float, ...] | None
    cache: str | None
    out: str
    device: str
    held_out_fraction: float
    canonical_data: str | None
    canonical_cache: str | None
    parallel: str = DDP
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.parallel not in PARALLEL:
            raise ValueError(choices_message("parallel", self.parallel, PARALLEL))

    @property
    def is_one_recording(self) -> bool:
        """Whether all data are one trajectory store, whose frames keep their size and are not cropped."""
        return isinstance(self.data, str) and is_recording(self.data)


@dataclasses.dataclass(frozen=True)
class Sections:
    """The options of a pretraining by section."""

    encoder: EncoderConfig
    jepa: JepaConfig
    pretrain: PretrainConfig
    trainer: TrainerConfig
    clips: ClipConfig
    videos: VideoConfig
    augmentation: AugmentationConfig


def read_sections(config: Config) -> Sections:
    """The sections of `config`. Raises UserError for values that do not fit each other."""
    if "kind" in config["encoder"]:
        kind = config["encoder"]["kind"]
        raise UserError(f"encoder={kind} is no vision transformer: encoder_from={kind} uses it without pretraining")
    sections = Sections(
        encoder=from_config(EncoderConfig, config["encoder"], "encoder"),
        jepa=from_config(JepaConfig, config["jepa"], "jepa"),
        pretrain=from_config(PretrainConfig, config["pretrain"], "pretrain"),
        trainer=from_config(TrainerConfig, config["trainer"], "trainer"),
        clips=from_config(ClipConfig, config["clips"], "clips"),
        videos=from_config(VideoConfig, config["videos"], "videos"),
        augmentation=from_config(AugmentationConfig, config["augmentation"], "augmentation"),
    )
    frames, tubelet = sections.clips.frames, sections.encoder.tubelet_frames
    if frames % tubelet:
        raise UserError(f"clips.frames {frames} is not a multiple of {tubelet} tubelet frames")
    return sections


def open_canonical(path: str, store: TrajectoryStore) -> TrajectoryStore:
    """A recording that begins with the same episodes as `store`, in another appearance.

    Raises:
        UserError: for a recording of other episodes or cameras.
    """
    canonical, rows = TrajectoryStore.open(path), store.num_rows
    if canonical.num_rows < rows or canonical.spec.cameras != store.spec.cameras:
        raise UserError(
            f"canonical_data {path} has {canonical.num_rows} frames of {_cameras(canonical)}, and the data {rows} of "
            f"{_cameras(store)}: expected the same episodes, in the same order, from the same cameras"
        )
    for name in ("proprio", "action"):
        if not np.array_equal(canonical.column(name)[:rows], store.column(name)):
            raise UserError(
                f"canonical_data {path} differs in {name} from the data: expected the same episodes, as envs.collect "
                "records them with the same seed, with and without env.distractors"
            )
    return canonical


def _cameras(store: TrajectoryStore) -> str:
    return ", ".join(f"{camera.name} ({camera.height} x {camera.width})" for camera in store.spec.cameras)


def open_source(given: PretrainOptions, config: Config, sections: Sections) -> PretrainSource:
    """The source of the clips. Nothing is written before all options are checked. Raises UserError."""
    trainer, clips = sections.trainer, sections.clips
    pretrain, steps, seed = sections.pretrain, trainer.steps, trainer.seed
    options = ClipOptions(
        clips, sections.videos, trainer.batch_size, steps, seed, pretrain.probe_frames, given.held_out_fraction,
        frames_at=lambda step: pretrain.frames_at(step, steps, seed, clips.frames),
    )  # fmt: skip
    if not given.is_one_recording:
        places = (given.data,) if isinstance(given.data, str) else given.data
        if given.canonical_data is not None:
            raise UserError("canonical_data needs a single recording as data: the targets are the same episodes")
        folder = Path(given.out if given.cache is None else given.cache).parent
        weights, augmentation = given.data_weights, sections.augmentation
        return MixedClips(places, weights, augmentation, folder, options, counting, _report)
    assert isinstance(given.data, str)
    if given.data_weights is not None:
        raise UserError("data_weights needs several data, for example data=[videos,runs/push/data.zarr]")
    store = open_recording(given.data, config["env"])
    sections.encoder.require_fit(store.spec.cameras)
    canonical = None
    if given.canonical_data is not None:
        if given.canonical_cache is None:
            raise UserError("canonical_data needs canonical_cache: the file for its decoded frames")
        canonical = open_canonical(given.canonical_data, store)
    cache, canonical_cache = (None if path is None else Path(path) for path in (given.cache, given.canonical_cache))
    return RecordingClips(store, canonical, cache, canonical_cache, options, counting)


def _report(line: str) -> None:
    if line:
        console.print(shown(line))


def with_influence(given: PretrainOptions, config: Config) -> Config:
    """The options that determine the encoder. A run goes on with any value of the others."""
    unused = ("videos", "augmentation", "data_weights") if given.is_one_recording else ("cache", "held_out_fraction")
    described = {key: value for key, value in config.items() if key not in unused}
    described["clips"] = {key: value for key, value in config["clips"].items() if value is not None}
    if "videos" in described:
        described["videos"] = {key: config["videos"][key] for key in ("root", "short", "size")}
    return described


def visible_shares(masks: Sequence[MaskFn], frames: int, grid: Grid, batch: int) -> list[float]:
    """Share of the tokens that each of `masks` leaves visible, measured on one batch of clips of `frames` layers."""
    rng = np.random.default_rng(0)
    drawn = [mask(batch, frames, grid, rng) for mask in masks]
    return [mask.visible.shape[1] / (frames * grid.tokens) for mask in drawn]


def cost_table(title: str, parts: Sequence[Cost]) -> Table:
    """A row for each component. The memory of weights includes gradients and the averages of AdamW."""
    made = table(title, "", "parameters (M)", "operations (G)", "weights (MB)", "activations (MB)", narrow=True)
    for part in parts:
        numbers = (part.parameters, part.operations / 1e3, part.parameter_bytes, part.activation_bytes)
        made.add_row(part.name, *(f"{number / 1e6:,.1f}" for number in numbers))
    return made


def show_costs(sections: Sections, cameras: Sequence[CameraSpec]) -> None:
    """Print what a step with clips of the largest of `cameras` costs."""
    encoder, batch, frames = sections.encoder, sections.trainer.batch_size, sections.clips.frames
    camera = max(cameras, key=lambda one: one.height * one.width)
    layers, grid = frames // encoder.tubelet_frames, encoder.grid_of(camera)
    shares = visible_shares(sections.pretrain.masks, layers, grid, batch)
    shown = f"one step with {batch} clips of {frames} x {camera.height} x {camera.width}"
    console.print(cost_table(shown, costs(encoder, sections.jepa, batch, layers, grid, shares)))


def refuse_unused(given: PretrainOptions) -> None:
    """Raises UserError for a typed option that has no effect on a single recording."""
    # Without a cache of frames, other processes read the recording.
    used = ("videos.workers", "videos.ahead", "videos.patience_s") if given.cache is None else ()
    for option in (*typed_options("videos"), *typed_options("augmentation")):
        if option.partition("=")[0] not in used:
            raise UserError(
                f"option '{option}' has no effect on a single recording: data=[{given.data}] crops and resizes it as "
                "videos are"
            )


def planned_camera(given: PretrainOptions, config: Config) -> CameraSpec | None:
    """A camera with the environment's size of images, if data are the default and not there yet."""
    size = config["env"].get("image_size")
    is_usual = given.data == f"runs/{config['env']['name']}/data.zarr"
    return CameraSpec("camera", size, size) if is_usual and size and not Path(str(given.data)).exists() else None


def require_fit(sections: Sections, cameras: Sequence[CameraSpec]) -> None:
    """Raises UserError for options that do not fit each other, or that need more memory than there is."""
    encoder, trainer, levels = sections.encoder, sections.trainer, sections.jepa.levels
    each = "trainer.batch_size" + (" / trainer.accumulate" if trainer.accumulate > 1 else "")
    here().require_divisible(each, trainer.batch_size // trainer.accumulate)
    sections.pretrain.require_fit(encoder, cameras, sections.clips.frames)
    if levels > encoder.blocks:
        raise UserError(f"jepa.levels {levels}: expected at most the encoder's number of blocks, {encoder.blocks}")
    if trainer.compile is not None and levels > 1:
        raise UserError(f"trainer.compile={trainer.compile} with jepa.levels {levels}: expected null, or 1 level")
    require_memory(
        f"trainer.batch_size={trainer.batch_size}",
        trainer.batch_size
        // (trainer.accumulate * here().count)
        * max(bytes_per_clip(encoder, camera, sections.clips.frames) for camera in cameras),
    )


@command("pretrain", on_ranks=True)
def main(config: Config) -> None:
    """Train, or resume training, and write the encoder."""
    given = from_config(PretrainOptions, plain_options(config), "pretrain")
    device = pick_device(given.device)
    sections = read_sections(config)
    if given.is_one_recording:
        refuse_unused(given)
    if given.dry_run and (planned := planned_camera(given, config)) is not None:
        sections.encoder.require_fit([planned])
        show_costs(sections, [planned])
        return
    with open_source(given, config, sections) as source:
        sections.encoder.require_fit(source.cameras)
        if given.dry_run:
            show_costs(sections, source.cameras)
            return
        require_fit(sections, source.cameras)
        # Options are checked before the folder is made. A corrected command must not find a run that never began.
        for path, option in ((given.cache, "cache"), (given.canonical_cache, "canonical_cache")):
            if path is not None and given.is_one_recording:
                output_file(path, option)
        train(given, config, sections, source, output_folder(given.out), device)


def train(
    given: PretrainOptions,
    config: Config,
    sections: Sections,
    source: PretrainSource,
    folder: Path,
    device: torch.device,
) -> None:
    """Begin, continue or find finished the run in `folder`."""
    description = describe_run(with_influence(given, config), **source.identities())
    has_finished = agreed(lambda: open_or_find_finished(folder, description))
    renamed = {"data": "data", "cache": "cache"} if given.is_one_recording else {}
    following = next_command("worldmodel.train", **renamed, out="encoder_from")
    if has_finished:
        console.print(f"already finished: {folder}\n{following}")
        return

    opened, trainer_config = source.open(), sections.trainer
    torch.manual_seed(trainer_config.seed)
    module = Jepa(sections.encoder, sections.jepa)
    task = PretrainTask(
        module, sections.pretrain, opened.clips, opened.probe, trainer_config.seed, device, opened.canonical
    )
    run_to_end(Trainer(task, trainer_config, folder, device, parallel=given.parallel), "pretrain")
    _report(opened.summary())
    if not here().is_first:
        return
    save_jepa(task.module, folder / "jepa", description)
    save_encoder(task.kept, folder, source.made_for, description)
    console.print(f"encoder: {folder}  (log: {folder}/log.jsonl, tensorboard --logdir {folder})\n{following}")


if __name__ == "__main__":
    main()
