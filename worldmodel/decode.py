"""`python -m worldmodel.decode env=push`: trains a decoder, which shows what a world model imagines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import torch

from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting, run_to_end
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.device import pick_device
from worldmodel.core.files import output_file, output_folder
from worldmodel.core.machine import require_memory
from worldmodel.core.options import from_config
from worldmodel.data.clips import split_episodes
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.models.contract import WorldModel
from worldmodel.models.decoder.decoder import DecoderNetwork, code_size, save_decoder
from worldmodel.models.decoder.network import DecoderConfig
from worldmodel.models.decoder.training import Chosen, DecoderTask, DecodingConfig, encode_codes
from worldmodel.models.registry import load_model
from worldmodel.training.recordings import load_cameras, open_recording
from worldmodel.training.runs import describe_run, is_finished, open_run
from worldmodel.training.trainer import Trainer, TrainerConfig

# Memory for every activation of a residual block that a step keeps for its gradient.
_LEAST_BYTES_PER_NUMBER: Final = 8


@dataclasses.dataclass(frozen=True)
class DecodeOptions:
    """Options of `configs/decode.yaml` outside its sections. The file explains each."""

    data: str
    cache: str
    checkpoint: str
    out: str
    device: str
    held_out_fraction: float


@dataclasses.dataclass(frozen=True)
class _Sections:
    """Sections of `configs/decode.yaml`. The file explains each option."""

    decoding: DecodingConfig
    network: DecoderConfig
    trainer: TrainerConfig

    @classmethod
    def of(cls, config: Config) -> _Sections:
        """The sections of a command's options. Raises UserError for options that do not fit."""
        return cls(
            from_config(DecodingConfig, config["decoding"], "decoding"),
            from_config(DecoderConfig, config["network"], "network"),
            from_config(TrainerConfig, config["trainer"], "trainer"),
        )

    def require_memory(self, store: TrajectoryStore, size: int) -> None:
        """Raises UserError if batches, the network or codes of `size` numbers cannot fit into the memory."""
        shape, batch = self.network, self.trainer.batch_size
        squares = self.decoding.squares
        numbers = 1.0 * batch * squares * shape.width * (1 + shape.depth)
        require_memory(f"trainer.batch_size={batch} with decoding.squares={squares}", numbers * _LEAST_BYTES_PER_NUMBER)
        widest = max(shape.width, shape.hidden_width, shape.patch_size, shape.places)
        require_memory(f"a decoder with a size of {widest}", 4.0 * shape.depth * widest**2)
        frames = min(self.decoding.frames, store.num_rows)
        require_memory(f"decoding.frames={self.decoding.frames}", 4.0 * frames * size)


@command("decode")
def main(config: Config) -> None:
    """Encode a part of the recording, train or resume the training, and write the decoder."""
    options = from_config(DecodeOptions, plain_options(config), "decode")
    sections, device = _Sections.of(config), pick_device(options.device)
    store = open_recording(options.data, config["env"])
    # Everything that can be refused is built before the folder, so that a corrected command does not find a run in it.
    model = load_model(options.checkpoint, device)
    model.spec.require_match(store.spec, f"the checkpoint {options.checkpoint}", f"recording {store.name}")
    size, seed = code_size(model), sections.trainer.seed
    sections.require_memory(store, size)
    split = split_episodes(store.num_episodes, options.held_out_fraction, seed)
    chosen = Chosen.of(store.episode_ends, split, sections.decoding, seed)
    cache, folder = output_file(options.cache, "cache"), output_folder(options.out)
    hashed = weights_hash(model)
    description = describe_run(config, store=store.identity, world_model=hashed)
    open_run(folder, description)
    following = next_command("planning.run", checkpoint="checkpoint", out="decoder")
    if not config["env"].get("simulated", True):
        following = f'next: RobotController(..., decoder="{folder}", verify=0.1), in docs/robot.md'
    if is_finished(folder):
        console.print(f"already finished: {folder}\n{following}")
        return

    task = _make_task(sections, store, model, hashed, chosen, size, cache, folder)
    run_to_end(Trainer(task, sections.trainer, folder, device), "decoder")
    figures = task.evaluate(sections.trainer.steps)
    save_decoder(task.module, folder, hashed, {**description, "held_out": figures})
    console.print(
        f"held-out images: PSNR {figures['psnr']:.1f} dB; the mean image {figures['psnr_mean_image']:.1f} dB, "
        f"the frame one control step before {figures['psnr_previous_frame']:.1f} dB"
    )
    console.print(f"decoder: {folder}  (log: {folder}/log.jsonl, tensorboard --logdir {folder})\n{following}")


def _make_task(
    sections: _Sections,
    store: TrajectoryStore,
    model: WorldModel,
    hashed: str,
    chosen: Chosen,
    size: int,
    cache: Path,
    folder: Path,
) -> DecoderTask:
    """The training task, with the codes of all selected frames."""
    frames = load_cameras(store, cache, counting)
    identity = f"{store.identity} {hashed}"
    proprio: Any = store.column("proprio")
    codes = []
    for name, rows in (("train", chosen.train), ("held_out", chosen.held_out)):
        with counting(f"encode frames ({name.replace('_', ' ')})", "frames") as progress:
            path = folder / f"codes.{name}.npy"
            codes.append(encode_codes(model, frames, proprio, rows, identity, path, progress).squeeze(1))
    torch.manual_seed(sections.trainer.seed)
    network = DecoderNetwork(model.spec.cameras, sections.network, size).to(model.device)
    batch, seed = sections.trainer.batch_size, sections.trainer.seed
    return DecoderTask(network, sections.decoding, frames, chosen, torch.cat(codes), batch, seed, model.device)


if __name__ == "__main__":
    main()
