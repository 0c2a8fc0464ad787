"""`python -m worldmodel.inverse env=push`: trains an inverse-dynamics head, which proposes actions toward a goal."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting, run_to_end
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file, output_folder
from worldmodel.core.machine import require_memory
from worldmodel.core.options import from_config
from worldmodel.data.clips import episode_starts, rows_of, split_episodes
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.models.contract import WorldModel
from worldmodel.models.decoder.decoder import code_size
from worldmodel.models.decoder.training import encode_codes
from worldmodel.models.inverse.inverse import save_inverse
from worldmodel.models.inverse.network import InverseConfig, InverseNetwork
from worldmodel.models.inverse.training import Episodes, InverseData, InverseTask
from worldmodel.models.registry import load_model
from worldmodel.training.recordings import load_cameras, open_recording
from worldmodel.training.runs import describe_run, is_finished, open_run
from worldmodel.training.trainer import Trainer, TrainerConfig


@dataclasses.dataclass(frozen=True)
class InverseOptions:
    """Options of `configs/inverse.yaml` outside its sections. The file explains each."""

    data: str
    cache: str
    checkpoint: str
    out: str
    device: str
    held_out_fraction: float


@dataclasses.dataclass(frozen=True)
class _Sections:
    """Sections of `configs/inverse.yaml`. The file explains each option."""

    episodes: InverseData
    head: InverseConfig
    trainer: TrainerConfig

    @classmethod
    def of(cls, config: Config) -> _Sections:
        """The sections of a command's options. Raises UserError for options that do not fit."""
        return cls(
            from_config(InverseData, config["episodes"], "episodes"),
            from_config(InverseConfig, config["head"], "head"),
            from_config(TrainerConfig, config["trainer"], "trainer"),
        )

    def require_memory(self, store: TrajectoryStore, size: int) -> None:
        """Raises UserError if a batch, the network or codes of `size` numbers cannot fit into the memory."""
        shape, batch = self.head, self.trainer.batch_size
        require_memory(f"trainer.batch_size={batch}", 16.0 * batch * shape.width * (1 + shape.depth))
        require_memory(f"head.width={shape.width}", 16.0 * shape.depth * shape.width**2)
        require_memory(f"head.chunk={shape.chunk}", 4.0 * batch * shape.chunk * store.spec.action.size)
        frames = min(self.episodes.frames, store.num_rows)
        require_memory(f"episodes.frames={self.episodes.frames}", 8.0 * frames * size)


def some_episodes(episode_ends: NDArray[np.int64], episodes: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """The first of `episodes [E]` that have at most `frames` frames together, but at least one of them.

    Raises:
        UserError: if there is none.
    """
    if not len(episodes):
        raise UserError("held_out_fraction leaves no held-out episode: a larger one is needed")
    starts = episode_starts(episode_ends)
    total = np.cumsum(episode_ends[episodes] - starts[episodes])
    return episodes[: max(int(np.searchsorted(total, frames, side="right")), 1)]


@command("inverse")
def main(config: Config) -> None:
    """Encode a part of the recording, train or resume the training, and write the head."""
    options = from_config(InverseOptions, plain_options(config), "inverse")
    sections, device = _Sections.of(config), pick_device(options.device)
    store = open_recording(options.data, config["env"])
    # Everything that can be refused is built before the folder, so that a corrected command does not find a run in it.
    model = load_model(options.checkpoint, device)
    model.spec.require_match(store.spec, f"the checkpoint {options.checkpoint}", f"recording {store.name}")
    size, seed = code_size(model), sections.trainer.seed
    sections.require_memory(store, size)
    split = split_episodes(store.num_episodes, options.held_out_fraction, seed)
    chosen = {
        "train": some_episodes(store.episode_ends, split.train, sections.episodes.frames),
        "held_out": some_episodes(store.episode_ends, split.held_out, sections.episodes.held_out_frames),
    }
    cache, folder = output_file(options.cache, "cache"), output_folder(options.out)
    hashed = weights_hash(model)
    description = describe_run(config, store=store.identity, world_model=hashed)
    open_run(folder, description)
    if sections.head.told_steps:
        following = next_command("planning.run", f"planner.proposals.inverse={folder}", checkpoint="checkpoint")
    else:
        following = next_command("planning.evaluate", f"cloning={folder}", checkpoint="checkpoint")
    if is_finished(folder):
        console.print(f"already finished: {folder}\n{following}")
        return
    train, held_out = (_encode(store, model, hashed, part, name, cache) for name, part in chosen.items())
    torch.manual_seed(seed)
    network = InverseNetwork(sections.head, size, model.spec.action.size).to(device)
    farthest, batch = sections.episodes.farthest, sections.trainer.batch_size
    task = InverseTask(network, train, held_out, farthest, batch, seed, device)
    run_to_end(Trainer(task, sections.trainer, folder, device), "inverse dynamics")
    figures = task.evaluate(sections.trainer.steps)
    save_inverse(network, folder, hashed, {**description, "held_out": figures})
    console.print(
        f"held-out actions: {figures['explained_near']:.0%} of their variance explained for goals "
        f"{sections.head.chunk} control steps away, {figures['explained_far']:.0%} for {farthest}"
    )
    console.print(f"head: {folder}  (log: {folder}/log.jsonl, tensorboard --logdir {folder})\n{following}")


def _encode(
    store: TrajectoryStore,
    model: WorldModel,
    hashed: str,
    episodes: NDArray[np.int64],
    name: str,
    cache: Path,
) -> Episodes:
    """The selected `episodes [E]`, with the codes of their frames as observations and as goals.

    The codes are kept beside the cache of frames, since other heads of the same model need the same ones.
    """
    frames = load_cameras(store, cache, counting)
    proprio: Any = store.column("proprio")
    rows, identity = rows_of(store.episode_ends, episodes), f"{store.identity} {hashed}"
    digest = hashlib.sha256(identity.encode() + rows.tobytes()).hexdigest()
    with counting(f"encode {name.replace('_', ' ')} frames", "frames") as progress:
        path = cache.with_name(f"codes.{digest[:12]}.npy")
        codes = encode_codes(model, frames, proprio, rows, identity, path, progress, with_goals=True)
    ends = np.cumsum((store.episode_ends - episode_starts(store.episode_ends))[episodes])
    actions = torch.from_numpy(np.asarray(store.column("action"))[rows].astype(np.float32))
    return Episodes(codes[:, 0], codes[:, 1], actions, ends)


if __name__ == "__main__":
    main()
