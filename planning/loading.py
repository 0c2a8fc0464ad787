"""A join: the one place where planning's commands meet the environments and the world model."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from envs.protocol import GoalEnv
from envs.registry import describe, make_env
from planning.types import Bounds
from worldmodel.core.checkpoint import resolve, shipped_names
from worldmodel.core.device import pick_compile, pick_precision
from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.models.keypoint.model import WorldModel

RUNS = Path("runs")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Which world model, and where it comes from.

    Attributes:
        source: what `WorldModel.load` is given: a shipped checkpoint's name or a folder.
        title: for the user.
    """

    source: str
    title: str

    @property
    def sha256(self) -> str:
        """Hash of configuration and weights: two models with one name are two, a copy elsewhere is the same one."""
        folder = resolve(self.source)
        digest = hashlib.sha256((folder / "config.json").read_bytes())
        digest.update((folder / "model.safetensors").read_bytes())
        return digest.hexdigest()


def open_env(config: Mapping[str, Any]) -> tuple[GoalEnv, EnvironmentSpec]:
    """An environment of the configuration group `env`, with its description."""
    env = make_env(config)
    return env, describe(env, config)


def choose_checkpoint(wanted: str | None, env: str) -> Checkpoint:
    """What the user asked for; else their own trained model of `env`; else the shipped one.

    Raises:
        UserError: when nothing was asked for and there is neither.
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


def load_model(
    checkpoint: Checkpoint, spec: EnvironmentSpec, device: torch.device, precision: str, compiled: str | bool = False
) -> WorldModel:
    """The world model, made sure to fit `spec`. Raises UserError where it does not, naming both values."""
    model = read_model(checkpoint, device, precision, compiled)
    model.spec.require_match(spec, checkpoint.title, f"env {spec.env}")
    return model


def read_model(
    checkpoint: Checkpoint, device: torch.device, precision: str, compiled: str | bool = "auto"
) -> WorldModel:
    """The world model, for whatever it was trained on. Raises UserError where it cannot be read."""
    wanted, compiled = pick_precision(precision), pick_compile(compiled, device)
    model = WorldModel.load(checkpoint.source, device)
    model.precision = wanted
    if compiled:
        model.compile_rollout()
    return model


def bounds_of(spec: EnvironmentSpec) -> Bounds:
    """Smallest and largest action, on the CPU."""
    return Bounds(torch.tensor(spec.action.low), torch.tensor(spec.action.high))
