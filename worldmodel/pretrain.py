"""`python -m worldmodel.pretrain env=push`: trains a frozen encoder on the recorded frames by V-JEPA."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting, run_to_end
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file, output_folder
from worldmodel.core.machine import require_memory
from worldmodel.core.options import from_config
from worldmodel.core.spec import CameraSpec
from worldmodel.data.clips import ClipConfig, ClipSampler, split_episodes
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.jepa.inference import save_jepa
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.jepa.task import PretrainConfig, PretrainTask, bytes_per_clip
from worldmodel.encoders.probe import probe_data
from worldmodel.encoders.registry import save_encoder
from worldmodel.encoders.vit import EncoderConfig
from worldmodel.training.recordings import load_cameras, open_recording
from worldmodel.training.runs import describe_run, is_finished, open_run
from worldmodel.training.trainer import Trainer, TrainerConfig

Frames = Mapping[str, NDArray[np.uint8]]


@dataclasses.dataclass(frozen=True)
class PretrainOptions:
    """The options in `configs/pretrain.yaml` beside its sections. The file explains each."""

    recipe: str
    data: str
    cache: str
    out: str
    device: str
    held_out_fraction: float
    canonical_data: str | None
    canonical_cache: str | None


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


@dataclasses.dataclass(frozen=True)
class RecordedClips:
    """The clips of a step, which depend only on its number. Every step has one camera, and cameras take turns.

    Attributes:
        frames: images by camera, uint8 `[R, H, W, 3]`.
        sampler: draws the rows of clips.
        batch_size: clips per step, B.
    """

    frames: Frames
    sampler: ClipSampler
    batch_size: int

    def __call__(self, step: int) -> NDArray[np.uint8]:
        """Clips of `step`, uint8 `[B, T, H, W, 3]`."""
        cameras = list(self.frames)
        return self.frames[cameras[step % len(cameras)]][self.sampler.sample(step, self.batch_size).rows]


def require_fit(
    encoder: EncoderConfig,
    jepa: JepaConfig,
    options: PretrainConfig,
    trainer: TrainerConfig,
    clips: ClipConfig,
    cameras: Sequence[CameraSpec],
) -> None:
    """Raises UserError for options that do not fit each other, or that need more memory than there is."""
    if clips.frames % encoder.tubelet_frames:
        raise UserError(f"clips.frames {clips.frames} is not a multiple of {encoder.tubelet_frames} tubelet frames")
    options.require_fit(encoder, cameras, clips.frames)
    if jepa.levels > encoder.depth:
        raise UserError(f"jepa.levels {jepa.levels}: expected at most the encoder's number of blocks, {encoder.depth}")
    if trainer.compile is not None and jepa.levels > 1:
        raise UserError(f"trainer.compile={trainer.compile} with jepa.levels {jepa.levels}: expected null, or 1 level")
    at_once = trainer.batch_size // trainer.accumulate
    require_memory(
        f"trainer.batch_size={trainer.batch_size}",
        at_once * max(bytes_per_clip(encoder, camera, clips.frames) for camera in cameras),
    )


@command("pretrain")
def main(config: Config) -> None:
    """Train, or resume training, and write the encoder."""
    given = from_config(PretrainOptions, plain_options(config), "pretrain")
    device = pick_device(given.device)
    store = open_recording(given.data, config["env"])
    if "kind" in config["encoder"]:
        kind = config["encoder"]["kind"]
        raise UserError(f"encoder={kind} is no vision transformer: encoder_from={kind} uses it without pretraining")
    encoder = from_config(EncoderConfig, config["encoder"], "encoder")
    encoder.require_fit(store.spec.cameras)
    jepa = from_config(JepaConfig, config["jepa"], "jepa")
    options = from_config(PretrainConfig, config["pretrain"], "pretrain")
    trainer_config = from_config(TrainerConfig, config["trainer"], "trainer")
    clips = from_config(ClipConfig, config["clips"], "clips")
    require_fit(encoder, jepa, options, trainer_config, clips, store.spec.cameras)
    # Options are checked before the folder is made. A corrected command must not find a run that never began.
    split = split_episodes(store.num_episodes, given.held_out_fraction, trainer_config.seed)
    sampler = ClipSampler(store.episode_ends, clips.frames, clips.strides, trainer_config.seed, split.train)
    canonical, canonical_cache = None, None
    if given.canonical_data is not None:
        if given.canonical_cache is None:
            raise UserError("canonical_data needs canonical_cache: the file for its decoded frames")
        canonical = open_canonical(given.canonical_data, store)
        canonical_cache = output_file(given.canonical_cache, "canonical_cache")
    cache, folder = output_file(given.cache, "cache"), output_folder(given.out)
    identities = {"store": store.identity} | ({} if canonical is None else {"canonical": canonical.identity})
    description = describe_run(config, **identities)
    open_run(folder, description)
    following = next_command("worldmodel.train", data="data", cache="cache", out="encoder_from")
    if is_finished(folder):
        console.print(f"already finished: {folder}\n{following}")
        return

    frames, seen_by_targets = load_cameras(store, cache, counting), None
    if canonical is not None and canonical_cache is not None:
        of_canonical = load_cameras(canonical, canonical_cache, counting)
        seen_by_targets = RecordedClips(of_canonical, sampler, trainer_config.batch_size)
    torch.manual_seed(trainer_config.seed)
    module = Jepa(encoder, jepa)
    task = PretrainTask(
        module,
        options,
        RecordedClips(frames, sampler, trainer_config.batch_size),
        probe_data(store, frames, split, options.probe_frames, trainer_config.seed),
        trainer_config.seed,
        device,
        seen_by_targets,
    )
    run_to_end(Trainer(task, trainer_config, folder, device), "pretrain")
    save_jepa(module, folder / "jepa", description)
    save_encoder(task.kept, folder, store.spec, description)
    console.print(f"encoder: {folder}  (log: {folder}/log.jsonl, tensorboard --logdir {folder})\n{following}")


if __name__ == "__main__":
    main()
