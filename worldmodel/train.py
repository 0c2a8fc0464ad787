"""`python -m worldmodel.train env=push`: trains a world model on the frozen encoder, in the stages of its family."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import torch

from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting, run_to_end
from worldmodel.core.device import pick_device
from worldmodel.core.files import output_file, output_folder
from worldmodel.core.machine import require_memory
from worldmodel.core.options import from_config
from worldmodel.data.clips import split_episodes
from worldmodel.encoders.registry import choose_encoder
from worldmodel.models.registry import FAMILIES, Family
from worldmodel.models.stages import TrainingContext
from worldmodel.training.recordings import load_cameras, open_recording
from worldmodel.training.runs import describe_run, is_finished, open_run
from worldmodel.training.trainer import TrainerConfig

# An item of a batch has at least some frames of some hundred numbers. The families here take 10 to 500 times as much.
_LEAST_BYTES_PER_ITEM: Final = 4096


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """The options in `configs/train.yaml` beside its sections. The file explains each."""

    data: str
    cache: str
    encoder_from: str
    out: str
    device: str
    held_out_fraction: float
    held_out_sequences: int
    family: str = "keypoint"

    def __post_init__(self) -> None:
        if self.held_out_sequences < 2:
            raise ValueError(f"held_out_sequences {self.held_out_sequences} must be at least 2")


def choose_family(config: Config) -> tuple[Family, Config]:
    """The chosen family and the mapping with its sections. A plug-in's sections are all in the section `family`."""
    chosen = config["family"]
    if isinstance(chosen, dict):
        return FAMILIES.get(chosen["name"]), chosen
    return FAMILIES.get(chosen), config


def _require_memory(sections: Any) -> None:
    """Raises UserError for batches that no family could hold."""
    for field in dataclasses.fields(sections):
        section = getattr(sections, field.name)
        if isinstance(section, TrainerConfig):
            size = section.batch_size
            require_memory(f"{field.name}.batch_size={size}", size * _LEAST_BYTES_PER_ITEM)


@command("train")
def main(config: Config) -> None:
    """Encode the recording once, train or resume training, and write the world model."""
    options = from_config(TrainOptions, plain_options(config), "train")
    device, (family, given) = pick_device(options.device), choose_family(config)
    store = open_recording(options.data, config["env"])
    # Options are checked before the folder is made. A corrected command must not find a run that never began.
    sections = family.read_options(given)
    _require_memory(sections)
    seed = sections.trainer.seed
    encoder = choose_encoder(options.encoder_from, config["encoder"], store.spec.cameras, seed).to(device)
    split = split_episodes(store.num_episodes, options.held_out_fraction, seed)
    stages = family.stages(sections, store, split)
    shapes = family.shapes(sections, encoder.config)
    cache, folder = output_file(options.cache, "cache"), output_folder(options.out)
    hashed = encoder.identity()
    description = describe_run(config, store=store.identity, encoder_hash=hashed)
    open_run(folder, description)
    following = next_command("planning.run", out="checkpoint")
    if not config["env"].get("simulated", True):
        following = f'next: RobotController("{folder}", goal=...), in docs/robot.md'
    if is_finished(folder):
        console.print(f"already finished: {folder}\n{following}")
        return

    frames = load_cameras(store, cache, counting)
    torch.manual_seed(seed)
    model = family.build(store.spec, shapes)
    model.encoder.adopt(encoder)
    context = TrainingContext(
        model=model,
        store=store,
        frames=frames,
        split=split,
        held_out=options.held_out_sequences,
        encoder=encoder,
        encoder_hash=hashed,
        device=device,
        folder=folder,
        seed=seed,
        counting=counting,
        say=console.print,
        run_to_end=run_to_end,
    )
    for stage in stages:
        stage.run(context)
    model.save(folder, description)
    console.print(f"world model: {folder}  (log: {folder}/log.jsonl, tensorboard --logdir {folder})\n{following}")


if __name__ == "__main__":
    main()
