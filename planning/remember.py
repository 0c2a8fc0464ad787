"""`python -m planning.remember env=push`: makes a memory of recorded moments, whose actions planners evaluate too.

The memory belongs to one world model. `planner.proposals.memory=FOLDER` uses it.

Shapes: `R` rows of the recording, `M` moments, `C` control steps of the actions that followed each, `A` action
dimensions, `H, W` height and width of a camera's images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from planning.loading import choose_checkpoint, read_model
from planning.policies.memory import MOST_CHUNK, MOST_MOMENTS, Bank, compact_of, save_memory
from worldmodel.cli.command import Config, command, next_command, plain_options
from worldmodel.cli.console import console, escape
from worldmodel.cli.progress import counting
from worldmodel.core.checkpoint import weights_hash
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file, output_folder
from worldmodel.core.observation import Observation
from worldmodel.core.options import from_config
from worldmodel.data.clips import rows_followed
from worldmodel.training.recordings import load_cameras, open_recording

_AT_ONCE: Final = 64  # images per batch, which bounds memory
_MIB: Final = 2**20


@dataclasses.dataclass(frozen=True)
class RememberConfig:
    """The options in `configs/remember.yaml` beside its groups. The file explains each."""

    data: str
    cache: str
    checkpoint: str | None
    out: str
    device: str
    moments: int
    chunk: int
    most_mib: int
    seed: int

    def __post_init__(self) -> None:
        if not (1 <= self.moments <= MOST_MOMENTS and 1 <= self.chunk <= MOST_CHUNK and self.most_mib >= 1):
            raise ValueError(
                f"moments={self.moments} chunk={self.chunk} most_mib={self.most_mib}: 1 to {MOST_MOMENTS:,}, 1 to "
                f"{MOST_CHUNK:,} and 1 up are accepted"
            )
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: a whole number from 0 up is accepted")


def choose_moments(episode_ends: NDArray[np.int64], moments: int, chunk: int, seed: int) -> NDArray[np.int64]:
    """Rows `[M]`, ascending, of which each is followed by `chunk` actions in its episode. They are drawn at random.

    Raises:
        UserError: if no episode has so many actions.
    """
    rows = rows_followed(episode_ends, chunk)  # the last row of an episode has no action
    if not len(rows):
        raise UserError(f"chunk={chunk}: no recorded episode has so many actions; a smaller chunk is needed")
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(rows, min(moments, len(rows)), replace=False))


def encode_moments(
    model: Any,
    frames: Mapping[str, NDArray[np.uint8]],
    proprio: NDArray[np.float32],
    rows: NDArray[np.int64],
    progress: Callable[[int, int], None],
) -> Any:
    """Latents `[M, ...]` of the frames at `rows [M]`, reduced to what the model's distance needs."""
    parts, done = [], 0
    for block in np.array_split(rows, -(-len(rows) // _AT_ONCE)):
        images = {camera: np.array(of_camera[block]) for camera, of_camera in frames.items()}
        with torch.no_grad():
            latent = compact_of(model, model.observe(None, Observation(images, proprio[block]), None))
        parts.append(latent.map(lambda part: part.float().cpu()))
        done += len(block)
        progress(done, len(rows))
    return type(parts[0]).cat(parts)


@command("remember", goes_on=False)
def main(config: Config) -> None:
    """Choose moments, encode them, and write the memory."""
    options = from_config(RememberConfig, plain_options(config), "remember")
    device = pick_device(options.device)
    store = open_recording(options.data, config["env"])
    checkpoint = choose_checkpoint(options.checkpoint, store.spec.env)
    model = read_model(checkpoint, device, "fp32")
    model.spec.require_match(store.spec, checkpoint.title, f"recording {store.name}")
    rows = choose_moments(store.episode_ends, options.moments, options.chunk, options.seed)
    cache, out = output_file(options.cache, "cache"), output_folder(options.out)
    frames = load_cameras(store, cache, counting)
    with counting("encode moments", "frames") as progress:
        latents = encode_moments(model, frames, np.asarray(store.column("proprio")), rows, progress)
    followed = np.asarray(store.column("action"))[rows[:, None] + np.arange(options.chunk)]
    bank = Bank(torch.from_numpy(followed.astype(np.float32)), latents.tensors())
    size = sum(2 * buffer.numel() for buffer in bank.buffers()) / _MIB
    if size > options.most_mib:
        raise UserError(
            f"moments={options.moments} chunk={options.chunk} take {size:,.0f} MiB: at most "
            f"most_mib={options.most_mib} are accepted"
        )
    provenance = {"store": store.identity, "seed": options.seed}
    save_memory(out, bank, weights_hash(model), provenance)
    console.print(
        f"{len(rows):,} moments of {escape(store.name)}, {options.chunk} actions each, {size:.1f} MiB: "
        f"{escape(str(out))}"
    )
    console.print(next_command("planning.run", f"planner.proposals.memory={out}", checkpoint="checkpoint"))


if __name__ == "__main__":
    main()
