"""Loads world models for planning. This is the only module of `planning` that imports them. It needs no environment."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from planning.choice import AUTO as PLANNER_OF_CHECKPOINT
from planning.choice import settings_for
from planning.hierarchy import Hierarchy, HierarchyConfig
from planning.policies.inverse import Predicted
from planning.policies.memory import load_memory
from planning.policies.proposals import OWN, Proposals
from planning.strategy import Strategy
from planning.types import Proposer
from worldmodel.core.checkpoint import is_there, resolve, shipped_names
from worldmodel.core.device import DTYPES, ONNX, pick_compile, pick_precision
from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.models import registry
from worldmodel.models.contract import WorldModel
from worldmodel.models.decoder.decoder import Decoder, load_decoder
from worldmodel.models.inverse.inverse import Inverse, load_inverse
from worldmodel.models.landmarks.landmarks import PICTURES, load_landmarks

RUNS = Path("runs")
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a world model.

    Attributes:
        source: a shipped checkpoint's name or a folder.
        title: name for the user.
    """

    source: str
    title: str

    @property
    def sha256(self) -> str:
        """Hash of configuration and weights. It tells models of one name apart, and a copy has the same hash."""
        return content_hash(resolve(self.source))


def content_hash(folder: Path) -> str:
    """Hash of the configuration and the weights in a checkpoint's folder."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    digest.update((folder / "model.safetensors").read_bytes())
    return digest.hexdigest()


def choose_checkpoint(wanted: str | None, env: str) -> Checkpoint:
    """The checkpoint that the user wants, or else their own trained model of `env`, or else the shipped one.

    Raises:
        UserError: if the user names no checkpoint and there is none for `env`.
    """
    if wanted is not None:
        return Checkpoint(wanted, f"the checkpoint {wanted}")
    own = RUNS / env / "model"
    if (own / "config.json").exists():
        return Checkpoint(str(own), f"your own model {own}")
    unfinished = f"the training of your own model {own} is not finished" if own.exists() else ""
    if env not in shipped_names():
        raise UserError(
            f"there is no world model of {env}: {unfinished or f'none at {own}'}, and none is shipped; "
            "`python -m worldmodel.train` with the same env makes one, checkpoint=FOLDER takes another"
        )
    return Checkpoint(env, f"the shipped checkpoint '{env}'" + (f" ({unfinished})" if unfinished else ""))


def read_model(
    checkpoint: Checkpoint,
    device: torch.device,
    precision: str,
    compiled: str | bool = "auto",
    spec: EnvironmentSpec | None = None,
) -> WorldModel:
    """The world model, ready for planning.

    Args:
        checkpoint: the checkpoint.
        device: device of the model.
        precision: precision of imagined futures: `bf16`, `fp32`, or `auto`, which is bf16 where the device has
            instructions for it.
        compiled: whether `imagine` is compiled by torch.compile: `auto` (only on a GPU), true or false; or `onnx`, with
            which ONNX Runtime computes it on a CPU.
        spec: specification that the model must fit, or None.

    Raises:
        UserError: for a checkpoint that cannot be read, and for one that does not fit. It names both values.
    """
    wanted, compiled = DTYPES[pick_precision(precision, device)], pick_compile(compiled, device)
    model = registry.load_model(checkpoint.source, device)
    if spec is not None:
        model.spec.require_match(spec, checkpoint.title, f"env {spec.env}")
    model.precision = wanted
    if compiled == ONNX:
        if wanted != torch.float32:
            raise UserError(f"compile={ONNX} computes in fp32, and precision is bf16: expected precision=fp32")
        model.export_imagination()
    elif compiled:
        model.compile_imagination()
    return model


def read_decoder(wanted: str | None, model: WorldModel) -> tuple[Decoder | None, str]:
    """The chosen decoder or None, and a note for the user, which is empty if there is nothing to say.

    Args:
        wanted: a folder, or `auto` for `runs/<env>/decoder`, else the decoder in the checkpoint's folder, if it can be
            used. None for no decoder.
        model: the world model of the decoder.

    Raises:
        UserError: for a given folder without a decoder of this model, or with a damaged one.
    """
    if wanted is None:
        return None, ""
    if wanted != AUTO:
        return load_decoder(Path(wanted), model), ""
    note = ""
    for folder in _companions("decoder", model):
        try:
            if is_there(folder):
                return load_decoder(folder, model), ""
        except UserError as error:  # the user did not name it, and it is not needed to act
            note = f"no decoder is used: {error}"
    return None, note


def read_hierarchy(wanted: str | None, config: HierarchyConfig, model: WorldModel) -> Hierarchy | None:
    """The hierarchy with the landmarks in the folder `wanted`, None for None.

    Raises:
        UserError: for a folder without landmarks of this model, or with damaged ones.
    """
    return None if wanted is None else Hierarchy(model, load_landmarks(Path(wanted), model), config)


def read_pictures(folder: Path) -> NDArray[np.uint8] | None:
    """Images of the landmarks in `folder`, uint8 `[L, H, W, 3]`. None if there are none."""
    try:
        # Mapped, so that a file that claims to be larger than it is takes no memory.
        pictures = np.load(folder / PICTURES, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # people look at them, and nothing else needs them
        return None
    fits = isinstance(pictures, np.ndarray) and pictures.dtype == np.uint8 and pictures.ndim == 4
    return pictures if fits and pictures.shape[-1] == 3 else None


def read_inverse(folder: str, model: WorldModel) -> Inverse:
    """The inverse-dynamics head in `folder`. Raises UserError if there is none, or one of another model."""
    return load_inverse(Path(folder), model)


def _companions(kind: str, model: WorldModel) -> list[Path]:
    """Where a companion of `model` is looked for: among the user's own runs first, then in the checkpoint's folder."""
    loaded = [] if model.folder is None else [model.folder / kind]
    return [RUNS / model.spec.env / kind, *loaded]


def _proposing_head(wanted: str | None, model: Any) -> tuple[Inverse | None, str]:
    """The head in the folder `wanted`; for `OWN` the model's own, or None and why there is none."""
    if wanted is None:
        return None, ""
    if wanted != OWN:
        return read_acting_heads(wanted, None, model)["inverse"], ""
    reason = "the model has no head, and `python -m worldmodel.inverse` trains one"
    for folder in _companions("inverse", model) if isinstance(model, WorldModel) else []:
        try:
            if is_there(folder):
                if (head := load_inverse(folder, model)).told_steps:
                    return head, ""
                reason = f"the head in {folder} was trained with head.told_steps=false"
        except UserError as error:  # the user did not name it, and a search goes without it too
            reason = str(error)
    return None, reason


def read_acting_heads(inverse: str | None, cloning: str | None, model: WorldModel) -> dict[str, Inverse]:
    """The heads that act without a search, by the options that name their folders.

    Raises:
        UserError: for a head that is missing, of another model, or named by the other one's option.
    """
    heads = {}
    for option, folder, told in (("inverse", inverse, True), ("cloning", cloning, False)):
        if folder is None:
            continue
        heads[option] = read_inverse(folder, model)
        if heads[option].told_steps != told:
            other = "cloning" if told else "inverse"
            raise UserError(
                f"{option}={folder} was trained with head.told_steps={str(not told).lower()}: use it as "
                f"{other}={folder}, or train one with head.told_steps={str(told).lower()}"
            )
    return heads


def chosen_planner(settings: Mapping[str, Any], wanted: str | None, env: str) -> dict[str, Any]:
    """The configuration group `planner`, with `planner=auto` replaced by the choice of the checkpoint.

    `wanted` and `env` are as for `choose_checkpoint`.

    Raises:
        UserError: for a checkpoint that does not exist, or whose choice cannot be used.
    """
    if settings.get("name") != PLANNER_OF_CHECKPOINT:
        return dict(settings)
    return settings_for(settings, resolve(choose_checkpoint(wanted, env).source))


def with_proposals(strategy: Strategy, model: Any) -> Strategy:
    """`strategy` with the memory and the inverse-dynamics head that its options name, if any.

    Args:
        strategy: how to plan. With `inverse=auto`, the head is the one in `runs/<env>/inverse`, else the one in the
            folder that the model was loaded from, if it belongs to the model. If there is none, `Strategy.missing` says
            why.
        model: the world model.

    Raises:
        UserError: for a folder that the options name, and that cannot be read or belongs to another model.
    """
    options = strategy.proposals
    sources: list[Proposer] = []
    if options.memory is not None:
        sources.append(load_memory(Path(options.memory), model, model.compact(model.blank_latent()), model.device))
    head, missing = _proposing_head(options.inverse, model)
    if head is not None:
        sources.append(Predicted(head))
    proposer = Proposals(sources, options.share) if sources else None
    return dataclasses.replace(strategy, proposer=proposer, missing=missing)
