"""`python -m worldmodel.landmarks env=push_wall`: finds landmarks in the recording, which are sub-goals of planning."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np

from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting
from worldmodel.core.checkpoint import is_there, weights_hash
from worldmodel.core.device import pick_device
from worldmodel.core.files import output_file, output_folder, replacing
from worldmodel.core.machine import require_memory
from worldmodel.core.options import from_config
from worldmodel.models.landmarks.building import Considered, build, encode
from worldmodel.models.landmarks.landmarks import (
    PICTURES,
    LandmarkConfig,
    Landmarks,
    save_landmarks,
)
from worldmodel.models.registry import load_model
from worldmodel.training.recordings import load_cameras, open_recording
from worldmodel.training.runs import describe_run, open_run

# Latents of all considered frames and one copy of them, in float32.
_BYTES_PER_NUMBER: Final = 8


@dataclasses.dataclass(frozen=True)
class LandmarkOptions:
    """Options of `configs/landmarks.yaml` outside its section. The file explains each."""

    data: str
    cache: str
    checkpoint: str
    out: str
    device: str
    seed: int

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: a whole number from 0 up is accepted")


@command("landmarks")
def main(config: Config) -> None:
    """Encode a part of the recording, choose landmarks, connect them, and write them."""
    options = from_config(LandmarkOptions, plain_options(config), "landmarks")
    wanted = from_config(LandmarkConfig, config["landmarks"], "landmarks")
    device = pick_device(options.device)
    store = open_recording(options.data, config["env"])
    model = load_model(options.checkpoint, device)
    model.spec.require_match(store.spec, f"the checkpoint {options.checkpoint}", f"recording {store.name}")
    considered = Considered.of(store.episode_ends, wanted.every)
    considered.require(wanted)
    size = sum(value.numel() for value in model.blank_latent().tensors().values())
    require_memory(
        f"landmarks.every={wanted.every} with {len(considered.rows)} frames",
        float(_BYTES_PER_NUMBER) * size * len(considered.rows),
    )
    cache, folder = output_file(options.cache, "cache"), output_folder(options.out)
    hashed = weights_hash(model)
    description = describe_run(config, store=store.identity, world_model=hashed)
    open_run(folder, description)
    following = next_command("planning.run", checkpoint="checkpoint", out="hierarchy")
    if is_there(folder):
        console.print(f"already finished: {folder}\n{following}")
        return
    frames = load_cameras(store, cache, counting)
    proprio: Any = store.column("proprio")
    with counting("encode frames", "frames") as progress:
        latents = encode(model, frames, proprio, considered.rows, progress)
    with counting("landmarks", "landmarks") as progress:
        landmarks, chosen = build(model, latents, considered, wanted, options.seed, progress)
    pictures = next(iter(frames.values()))[considered.rows[chosen.numpy()]]
    with replacing(folder / PICTURES) as file:
        np.save(file, pictures, allow_pickle=False)
    save_landmarks(landmarks, folder, hashed, description)
    _report(landmarks)
    console.print(f"landmarks: {folder}\n{following}")


def _report(landmarks: Landmarks) -> None:
    """Print how well the landmarks are connected."""
    edges, count = landmarks.edges, landmarks.config.count
    console.print(
        f"{count} landmarks, {len(edges.steps) / count:.1f} ways from each, of {float(edges.steps.median()):.0f} "
        f"control steps (median); a fast motion takes {landmarks.pace:.1f} control steps for a distance of 1"
    )


if __name__ == "__main__":
    main()
