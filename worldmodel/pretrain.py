"""`python -m worldmodel.pretrain env=push`: V-JEPA on the recorded frames → a frozen encoder."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file, output_folder
from worldmodel.core.options import from_config
from worldmodel.data.clips import ClipConfig, ClipSampler, Split, split_episodes
from worldmodel.data.frames import load_frames
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.jepa.objective import Jepa, JepaConfig
from worldmodel.encoders.jepa.task import PretrainConfig, PretrainTask, ProbeData
from worldmodel.encoders.registry import save_encoder
from worldmodel.encoders.vit import EncoderConfig
from worldmodel.training.runs import describe_run, is_finished, open_run, run_to_end
from worldmodel.training.trainer import Trainer, TrainerConfig


@dataclasses.dataclass(frozen=True)
class PretrainOptions:
    """What `configs/pretrain.yaml` holds beside its sections; it says what each means."""

    data: str
    cache: str
    out: str
    device: str
    held_out_fraction: float
    canonical_data: str | None
    canonical_cache: str | None


def open_canonical(path: str, store: TrajectoryStore) -> TrajectoryStore:
    """A recording that begins with the episodes of `store`, looked at differently. Raises UserError for any other."""
    canonical, rows = TrajectoryStore.open(path), store.num_rows
    size, wanted = canonical.spec.only_camera.height, store.spec.only_camera.height
    if canonical.num_rows < rows or size != wanted:
        raise UserError(
            f"canonical_data {path} has {canonical.num_rows} frames of {size}², and the data {rows} of {wanted}²: "
            "expected the same episodes, in the same order and size"
        )
    for name in ("proprio", "action"):
        if not np.array_equal(canonical.column(name)[:rows], store.column(name)):
            raise UserError(
                f"canonical_data {path} differs in {name} from the data: expected the same episodes, as envs.collect "
                "records them with the same seed, with and without env.distractors"
            )
    return canonical


def probe_data(store: TrajectoryStore, frames: np.ndarray, split: Split, num_frames: int, seed: int) -> ProbeData:
    """Frames with what is known of them (proprioception, and a simulator's state), half from held-out episodes.

    Where nothing is held out, nothing is to be read from the frames: they only show whether features still vary.
    """
    state = np.concatenate([store.column("proprio"), store.column("state")], axis=1)
    held_out = split.held_out
    if len(held_out) == 0:
        state, held_out = state[:, :0], split.train
    rng = np.random.default_rng([seed, 1])
    picked = []
    for episodes in (split.train, held_out):
        rows = np.concatenate([np.arange(r.start, r.stop) for r in map(store.episode_rows, episodes)])
        picked.append(np.sort(rng.choice(rows, min(num_frames // 2, len(rows)), replace=False)))
    train, test = picked
    state = state.astype(np.float32)
    return ProbeData(frames[train], state[train], frames[test], state[test])


@command("pretrain")
def main(config: Config) -> None:
    """Train, or go on training, and write the target encoder."""
    given = from_config(PretrainOptions, plain_options(config), "pretrain")
    device = pick_device(given.device)
    store = TrajectoryStore.open(given.data)
    encoder = from_config(EncoderConfig, {**config["encoder"], "image_size": store.spec.only_camera.height}, "encoder")
    jepa = from_config(JepaConfig, config["jepa"], "jepa")
    options = from_config(PretrainConfig, config["pretrain"], "pretrain")
    trainer_config = from_config(TrainerConfig, config["trainer"], "trainer")
    clips = from_config(ClipConfig, config["clips"], "clips")
    if clips.frames % encoder.tubelet_frames:
        raise UserError(f"clips.frames {clips.frames} is not a multiple of {encoder.tubelet_frames} tubelet frames")
    # All that can be refused is built before the folder: a corrected command must not find a run that never began.
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

    with counting("decode frames") as progress:
        frames = load_frames(store, cache, progress)
    canonical_frames = None
    if canonical is not None and canonical_cache is not None:
        with counting("decode frames") as progress:
            canonical_frames = load_frames(canonical, canonical_cache, progress)
    torch.manual_seed(trainer_config.seed)
    module = Jepa(encoder, jepa)
    task = PretrainTask(
        module,
        options,
        frames,
        lambda step: sampler.sample(step, trainer_config.batch_size).rows,
        probe_data(store, frames, split, options.probe_frames, trainer_config.seed),
        trainer_config.seed,
        device,
        canonical_frames,
    )
    run_to_end(Trainer(task, trainer_config, folder, device), "pretrain")
    save_encoder(task.kept, folder, store.spec, description)
    console.print(f"encoder: {folder}  (log: {folder}/log.jsonl, tensorboard --logdir {folder})\n{following}")


if __name__ == "__main__":
    main()
