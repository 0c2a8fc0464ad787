"""`python -m worldmodel.probe env=push`: linear probes of an encoder's features, and how much the features vary."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldmodel.cli.command import Config, command, plain_options
from worldmodel.cli.console import console
from worldmodel.cli.progress import counting
from worldmodel.cli.tables import Table, table
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file, write_json
from worldmodel.core.options import from_config
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.clips import split_episodes
from worldmodel.encoders.probe import Probed, probe, probe_data
from worldmodel.encoders.registry import choose_encoder
from worldmodel.training.recordings import load_cameras, open_recording


@dataclasses.dataclass(frozen=True)
class ProbeOptions:
    """The options in `configs/probe.yaml` beside its groups. The file explains each."""

    data: str
    cache: str
    encoder_from: str
    device: str
    frames: int
    held_out_fraction: float
    seed: int
    out: str | None

    def __post_init__(self) -> None:
        if self.frames < 4:
            raise ValueError(f"frames {self.frames}: expected at least 4, half of them held out")
        if self.held_out_fraction == 0:
            raise ValueError("held_out_fraction 0.0: expected more, since the probe is tested on episodes held out")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}: expected a whole number of at least 0")


def quantity_names(spec: EnvironmentSpec) -> list[str]:
    """Names of all quantities that the probe estimates, in the order of `worldmodel.encoders.probe.probe_data`."""
    return [f"proprio {i}" for i in range(spec.proprio_size)] + [f"state {i}" for i in range(spec.state_size)]


def _table(title: str, names: list[str], found: Mapping[str, Probed]) -> Table:
    made = table(title, "", *found, narrow=True)
    made.add_row("spread (1: all varies)", *(f"{f.spread:.3f}" for f in found.values()))
    made.add_row("effective rank", *(f"{f.effective_rank:.1f}" for f in found.values()))
    made.add_row("R² on average", *(_score(f.mean_r2) for f in found.values()))
    for index, name in enumerate(names):
        made.add_row(f"R² of {name}", *(_score(f.r2[index]) for f in found.values()))
    return made


def _score(value: float) -> str:
    return "constant" if math.isnan(value) else f"{value:.3f}"


def _record(names: list[str], found: Probed) -> dict[str, Any]:
    r2 = {name: None if math.isnan(score) else score for name, score in zip(names, found.r2, strict=True)}
    mean = None if math.isnan(found.mean_r2) else found.mean_r2
    return {"spread": found.spread, "effective_rank": found.effective_rank, "r2_mean": mean, "r2": r2}


@command("probe", goes_on=False)
def main(config: Config) -> None:
    """Probe every camera of the recording."""
    options = from_config(ProbeOptions, plain_options(config), "probe")
    device = pick_device(options.device)
    store = open_recording(options.data, config["env"])
    split = split_episodes(store.num_episodes, options.held_out_fraction, options.seed)
    names = quantity_names(store.spec)
    if not names:
        raise UserError(f"{store.name} has neither proprioception nor a simulator's state: there is nothing to probe")
    encoder = choose_encoder(options.encoder_from, config["encoder"], store.spec.cameras, options.seed).to(device)
    out = None if options.out is None else output_file(options.out)
    frames = load_cameras(store, output_file(options.cache, "cache"), counting)
    data = probe_data(store, frames, split, options.frames, options.seed)
    found = {camera: probe(encoder, of_camera, device) for camera, of_camera in data.items()}
    tested = len(next(iter(data.values())).test_pixels)
    title = f"{options.encoder_from} on {store.name}: a linear probe, tested on {tested} frames of held-out episodes"
    console.print(_table(title, names, found))
    if out is not None:
        figures = {camera: _record(names, of_camera) for camera, of_camera in found.items()}
        about = {"encoder": options.encoder_from, "store": store.identity, "frames": tested}
        write_json({**about, "seed": options.seed, "cameras": figures}, Path(out), indent=1)
        console.print(f"figures: {out}")


if __name__ == "__main__":
    main()
