"""A join: the one place where planning's commands meet the environments and the world model."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import torch
from omegaconf import DictConfig

from configs.command import UserError
from envs.protocol import GoalEnv
from envs.registry import describe, make_env
from planning.types import Bounds
from worldmodel.checkpoint import resolve
from worldmodel.data.spec import EnvironmentSpec
from worldmodel.world_model import WorldModel

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
        """Hash of everything in the folder: two models with one name are two models."""
        digest = hashlib.sha256()
        for path in sorted(p for p in resolve(self.source).iterdir() if p.suffix in (".json", ".safetensors")):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()


def open_env(config: DictConfig) -> tuple[GoalEnv, EnvironmentSpec]:
    """An environment of the configuration group `env`, with its description."""
    env = make_env(config)
    return env, EnvironmentSpec.from_dict(describe(env, config))


def choose_checkpoint(wanted: str | None, env: str) -> Checkpoint:
    """What the user asked for; else their own trained model of `env`; else the shipped one."""
    if wanted is not None:
        return Checkpoint(wanted, f"the checkpoint {wanted}")
    own = RUNS / env / "model"
    if (own / "config.json").exists():
        return Checkpoint(str(own), f"your own model {own}")
    return Checkpoint(env, f"the shipped checkpoint '{env}'")


def choose_device(wanted: str | None) -> torch.device:
    """`wanted`, or a GPU where there is one. Raises UserError for one that is not there."""
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        raise UserError(f"device '{wanted}' cannot be used here: cpu always can, cuda with an NVIDIA GPU") from error
    return device


def load_model(checkpoint: Checkpoint, spec: EnvironmentSpec, device: torch.device) -> WorldModel:
    """The world model, made sure to fit `spec`. Raises UserError where it does not, naming both values."""
    model = WorldModel.load(checkpoint.source, device)
    model.spec.require_match(spec, checkpoint.title, f"env {spec.env}")
    return model


def bounds_of(spec: EnvironmentSpec) -> Bounds:
    """Smallest and largest action, on the CPU."""
    return Bounds(torch.tensor(spec.action_low), torch.tensor(spec.action_high))
