"""`python -m worldmodel.train env=push`: trains a world model on the frozen encoder, in the stages of its family."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Final

import torch

from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting, run_to_end
from worldmodel.core.checkpoint import stored_hash, weights_hash
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file, output_folder
from worldmodel.core.machine import require_memory
from worldmodel.core.options import from_config
from worldmodel.core.ranks import agreed, here
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.clips import Split, split_episodes
from worldmodel.data.store.reader import TrajectoryStore
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.registry import choose_encoder
from worldmodel.models.contract import WorldModel
from worldmodel.models.registry import FAMILIES, Family, load_model
from worldmodel.models.stages import Stage, TrainingContext
from worldmodel.models.tuning import TuningConfig
from worldmodel.training.collectives import make_alike
from worldmodel.training.recordings import load_cameras, open_recording
from worldmodel.training.runs import describe_run, first_difference, open_or_find_finished
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
    init_from: str | None = None

    def __post_init__(self) -> None:
        if self.held_out_sequences < 2:
            raise ValueError(f"held_out_sequences {self.held_out_sequences} must be at least 2")


def choose_family(config: Config) -> tuple[Family, Config]:
    """The chosen family and the mapping with its sections. A plug-in's sections are all in the section `family`."""
    chosen = config["family"]
    if isinstance(chosen, dict):
        return FAMILIES.get(chosen["name"]), chosen
    return FAMILIES.get(chosen), config


def read_tuning(config: Config) -> TuningConfig:
    """The section `tuning`. Raises UserError for options that do not fit."""
    return from_config(TuningConfig, config["tuning"], "tuning")


def with_influence(config: Config) -> Config:
    """The options that determine the model. Runs from before there was tuning do not name it."""
    return config if read_tuning(config).is_on else {key: config[key] for key in config if key != "tuning"}


def _require_memory(sections: Any) -> None:
    """Raises UserError for batches that no family could hold."""
    for field in dataclasses.fields(sections):
        section = getattr(sections, field.name)
        if isinstance(section, TrainerConfig):
            size = section.batch_size
            require_memory(f"{field.name}.batch_size={size}", size * _LEAST_BYTES_PER_ITEM)


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What a training begins with.

    Attributes:
        encoder: the frozen encoder.
        stages: what is trained, in order.
        made_from: hashes of what `run.json` names beside the recording.
        model: a model with the weights of a finished training, or None for random weights.
    """

    encoder: Encoder
    stages: Sequence[Stage]
    made_from: dict[str, str]
    model: WorldModel | None = None

    @classmethod
    def anew(
        cls, options: TrainOptions, config: Config, family: Family, sections: Any, store: TrajectoryStore, split: Split
    ) -> Beginning:
        """Random weights on the encoder `encoder_from`. Raises UserError for one that cannot be used, or tuned."""
        seed, tuning = sections.trainer.seed, read_tuning(config)
        encoder = choose_encoder(options.encoder_from, config["encoder"], store.spec.cameras, seed)
        made_from = {"encoder_hash": encoder.identity()}
        family.shapes(sections, encoder.config)  # refuses what does not fit, before the folder is made
        if not tuning.is_on:
            return cls(encoder, family.stages(sections, store, split), made_from)
        if family.tuned_stages is None:
            able = ", ".join(name for name in FAMILIES.names() if FAMILIES.get(name).tuned_stages is not None)
            raise UserError(
                f"tuning.encoder={tuning.encoder} with family={family.name}, which imagines the encoder's own tokens: "
                f"expected family={able}, or tuning.encoder=none"
            )
        tuning.require_fit(encoder)
        return cls(encoder, family.tuned_stages(sections, store, split, tuning), made_from)

    @classmethod
    def further(
        cls, init_from: str, tuning: TuningConfig, family: Family, sections: Any, store: TrajectoryStore, split: Split
    ) -> Beginning:
        """The model `init_from`, whose encoder and perception stay.

        Raises:
            UserError: for a checkpoint that cannot be read or does not fit, and for a family whose training cannot go
                on from one.
        """
        if tuning.is_on:
            raise UserError(f"tuning.encoder={tuning.encoder} with init_from={init_from}: expected none, as it stays")
        if family.further_stages is None:
            able = ", ".join(name for name in FAMILIES.names() if FAMILIES.get(name).further_stages is not None)
            raise UserError(f"init_from={init_from} with family={family.name}: expected family={able}, or no init_from")
        given = load_model(init_from, torch.device("cpu"))
        if given.family != family.name:
            raise UserError(f"init_from={init_from} is of family {given.family}: expected one of family {family.name}")
        given.spec.require_match(store.spec, f"init_from={init_from}", "the recording")
        sizes = given.describe()
        asked = family.shapes(sections, given.encoder.config)
        difference = first_difference(*(json.loads(json.dumps(each)) for each in (sizes, asked)))
        if difference is not None:
            name, theirs, ours = difference
            raise UserError(
                f"init_from={init_from} has {name}={theirs}, this command asks for {ours}: give {name}={theirs}"
            )
        model = family.build(store.spec, sizes)
        model.load_state_dict(given.state_dict())
        hashes = {"encoder_hash": model.encoder.identity(), "init_hash": weights_hash(model)}
        return cls(model.encoder, family.further_stages(sections, store, split), hashes, model)

    def make_model(self, family: Family, sections: Any, spec: EnvironmentSpec) -> WorldModel:
        """The model to train."""
        if self.model is not None:
            return self.model
        model = family.build(spec, family.shapes(sections, self.encoder.config))
        model.encoder.adopt(self.encoder)
        return model


@command("train", on_ranks=True)
def main(config: Config) -> None:
    """Encode the recording once, train or resume training, and write the world model."""
    options = from_config(TrainOptions, plain_options(config), "train")
    device, (family, given) = pick_device(options.device), choose_family(config)
    store = open_recording(options.data, config["env"])
    # Options are checked before the folder is made. A corrected command must not find a run that never began.
    sections = family.read_options(given)
    _require_memory(sections)
    seed = sections.trainer.seed
    split = split_episodes(store.num_episodes, options.held_out_fraction, seed)
    if options.init_from is None:
        begun = Beginning.anew(options, config, family, sections, store, split)
    else:
        begun = Beginning.further(options.init_from, read_tuning(config), family, sections, store, split)
    cache, folder = output_file(options.cache, "cache"), output_folder(options.out)
    description = describe_run(with_influence(config), store=store.identity, **begun.made_from)
    has_finished = agreed(lambda: open_or_find_finished(folder, description))
    following = next_command("planning.run", out="checkpoint")
    if not config["env"].get("simulated", True):
        following = f'next: RobotController("{folder}", goal=...), in docs/robot.md'
    if has_finished:
        console.print(f"already finished: {folder}\n{following}")
        return

    frames = load_cameras(store, cache, counting)
    torch.manual_seed(seed)
    model = begun.make_model(family, sections, store.spec)
    context = TrainingContext(
        model=model,
        store=store,
        frames=frames,
        split=split,
        held_out=options.held_out_sequences,
        encoder=begun.encoder.to(device),
        encoder_hash=begun.made_from["encoder_hash"],
        device=device,
        folder=folder,
        seed=seed,
        counting=counting,
        say=console.print,
        run_to_end=run_to_end,
    )
    for stage in begun.stages:
        stage.run(context)
        make_alike(model)
    if not here().is_first:
        return
    tuned = {"tuned_encoder_hash": stored_hash(model.encoder)} if read_tuning(config).is_on else {}
    model.save(folder, {**description, **tuned})
    console.print(f"world model: {folder}  (log: {folder}/log.jsonl, tensorboard --logdir {folder})\n{following}")


if __name__ == "__main__":
    main()
