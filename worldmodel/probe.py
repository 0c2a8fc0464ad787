"""`python -m worldmodel.probe`: what can be read from an encoder's features.

From a recording, it reads the recorded quantities out of single frames. From videos with classes, it reads the class,
or a point in every frame, or whether a clip is unusual.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from worldmodel.cli.command import Config, command, plain_options
from worldmodel.cli.console import console, shown
from worldmodel.cli.progress import counting
from worldmodel.cli.tables import Table, table
from worldmodel.core.device import pick_device
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.files import output_file, write_json
from worldmodel.core.options import from_config
from worldmodel.core.spec import CAMERA, CameraSpec, EnvironmentSpec
from worldmodel.data.clips import split_episodes
from worldmodel.data.videos.labelled import LabelledConfig, split_places
from worldmodel.encoders.jepa.sources import is_recording
from worldmodel.encoders.probe import Probed, probe, probe_data
from worldmodel.encoders.probes.anomaly import Detected, detect
from worldmodel.encoders.probes.classify import PROBES, Classified, Splits, classify, require_probes
from worldmodel.encoders.probes.dataset import LabelledData
from worldmodel.encoders.probes.features import ClipShape
from worldmodel.encoders.probes.grid import GridConfig
from worldmodel.encoders.probes.track import Tracked, track
from worldmodel.frozen import frozen_encoder
from worldmodel.training.recordings import load_cameras, open_recording

STATE, CLASSES, POINTS, ANOMALIES = "state", "classes", "points", "anomalies"
_OF_VIDEOS: Final = (CLASSES, POINTS, ANOMALIES)


@dataclasses.dataclass(frozen=True)
class ProbeOptions:
    """The options in `configs/probe.yaml` beside its groups and sections. The file explains each."""

    data: str
    cache: str
    encoder_from: str
    device: str
    frames: int
    held_out_fraction: float
    seed: int
    out: str | None
    read: str | None = None
    probes: tuple[str, ...] = PROBES
    normal: str | None = None
    val_data: str | None = None
    test_data: str | None = None
    val_fraction: float = 0.2
    features: str = "runs/probe"

    def __post_init__(self) -> None:
        if self.frames < 4:
            raise ValueError(f"frames {self.frames}: expected at least 4, half of them held out")
        if self.held_out_fraction == 0:
            raise ValueError("held_out_fraction 0.0: expected more, since the probe is tested on episodes held out")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}: expected a whole number of at least 0")
        if self.read not in (None, STATE, *_OF_VIDEOS):
            raise ValueError(choices_message("read", self.read, (STATE, *_OF_VIDEOS)))
        if not 0 < self.val_fraction < 0.5:
            raise ValueError(f"val_fraction {self.val_fraction}: expected a number between 0 and 0.5")
        require_probes(self.probes)

    @property
    def reads(self) -> str:
        """What is read: what the user asks for, or what the data have. Raises UserError if the data do not have it."""
        of_recording = is_recording(self.data)
        found = self.read or (STATE if of_recording else CLASSES)
        if (found == STATE) != of_recording:
            kind = "a recording" if of_recording else "videos"
            accepted = STATE if of_recording else ", ".join(_OF_VIDEOS)
            raise UserError(f"read={found} with {kind} as data: expected {accepted}")
        if (found == ANOMALIES) != (self.normal is not None):
            raise UserError(f"read={found} with normal={self.normal}: read=anomalies needs normal=CLASS, and no other")
        return found


# --- recordings ------------------------------------------------------------------------------------------------------


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


def probe_recording(options: ProbeOptions, config: Config, device: torch.device) -> None:
    """Linear probes of recorded quantities, for every camera of the recording."""
    store = open_recording(options.data, config["env"])
    split = split_episodes(store.num_episodes, options.held_out_fraction, options.seed)
    names = quantity_names(store.spec)
    if not names:
        raise UserError(f"{store.name} has neither proprioception nor a simulator's state: there is nothing to probe")
    encoder = frozen_encoder(options.encoder_from, config["encoder"], store.spec.cameras, options.seed).to(device)
    out = None if options.out is None else output_file(options.out)
    frames = load_cameras(store, output_file(options.cache, "cache"), counting)
    data = probe_data(store, frames, split, options.frames, options.seed)
    found = {camera: probe(encoder, of_camera, device) for camera, of_camera in data.items()}
    tested = len(next(iter(data.values())).test_pixels)
    title = f"{options.encoder_from} on {store.name}: a linear probe, tested on {tested} frames of held-out episodes"
    console.print(_table(title, names, found))
    figures = {camera: _record(names, of_camera) for camera, of_camera in found.items()}
    about = {"encoder": options.encoder_from, "store": store.identity, "frames": tested}
    _write({**about, "seed": options.seed, "cameras": figures}, out)


def _write(content: Mapping[str, Any], out: Path | None) -> None:
    if out is not None:
        write_json(content, out, indent=1)
        console.print(f"figures: {out}")


# --- videos ----------------------------------------------------------------------------------------------------------

Found = Mapping[str, Classified] | Mapping[str, Tracked] | Mapping[str, Detected]


def read_all(
    reads: str, options: ProbeOptions, splits: Splits, classes: tuple[str, ...], shape: ClipShape, grid: GridConfig,
    device: torch.device,
) -> Found:  # fmt: skip
    """The result of every kind of probe or score by its name."""
    if reads == ANOMALIES:
        assert options.normal is not None
        return detect(splits, classes.index(options.normal), shape)
    classified, tracked = dict[str, Classified](), dict[str, Tracked]()
    for kind in options.probes:
        with counting(f"train {len(grid.corners)} {kind} probes") as progress:
            if reads == CLASSES:
                classified[kind] = classify(kind, splits, len(classes), shape, grid, device, progress)
            else:
                tracked[kind] = track(kind, splits, shape, grid, device, progress)
    return classified or tracked


def _lines(found: Found, chance: float, size: int) -> list[tuple[str, list[str]]]:
    """Rows of the table, with a cell for each probe."""
    first = next(iter(found.values()))
    each: list[Any] = list(found.values())
    if isinstance(first, Detected):
        return [
            ("AUROC", [f"{f.auroc:.3f}" for f in each]),
            ("95 % interval", [f"{f.low:.3f} to {f.high:.3f}" for f in each]),
        ]
    chosen = [
        ("learning rate", [f"{f.learning_rate:g}" for f in each]),
        ("weight decay", [f"{f.weight_decay:g}" for f in each]),
    ]
    if isinstance(first, Classified):
        return [
            ("accuracy in %", [f"{100 * f.accuracy:.1f}" for f in each]),
            ("95 % interval", [f"{100 * f.low:.1f} to {100 * f.high:.1f}" for f in each]),
            ("most frequent class", [f"{100 * chance:.1f}" for _ in each]),
            ("on videos to choose by", [f"{100 * f.val_accuracy:.1f}" for f in each]),
            *chosen,
        ]
    return [
        ("error in pixels", [f"{size * f.error:.2f}" for f in each]),
        ("95 % interval", [f"{size * f.low:.2f} to {size * f.high:.2f}" for f in each]),
        ("error where hidden", [f"{size * f.hidden_error:.2f}" for f in each]),
        ("error of the mean place", [f"{size * f.reference_error:.2f}" for f in each]),
        *chosen,
    ]


def _plain(result: Classified | Tracked | Detected) -> dict[str, Any]:
    """A result as JSON values. Lists have a number for each clip to report on, null where there is none."""
    values: dict[str, Any] = {}
    for name, value in vars(result).items():
        if isinstance(value, float):
            values[name] = value if math.isfinite(value) else None
        elif value.dtype == bool:
            values[name] = value.astype(int).tolist()
        else:
            values[name] = [number if math.isfinite(number) else None for number in value.tolist()]
    return values


def probe_videos(options: ProbeOptions, config: Config, device: torch.device) -> None:
    """Probes of labelled videos."""
    reads = options.reads
    labelled = from_config(LabelledConfig, config["labelled"], "labelled")
    grid = from_config(GridConfig, config["grid"], "grid")
    if reads == POINTS and labelled.segments > 1:
        raise UserError(f"labelled.segments {labelled.segments} with read={POINTS}: expected 1")
    camera = CameraSpec(CAMERA, labelled.size, labelled.size)
    encoder = frozen_encoder(options.encoder_from, config["encoder"], (camera,), options.seed).to(device)
    shape = ClipShape.of(encoder, labelled.segments, labelled.frames, labelled.size)
    out = None if options.out is None else output_file(options.out)
    others = (None if path is None else Path(path) for path in (options.val_data, options.test_data))
    places = split_places(Path(options.data), *others)
    with LabelledData(places, labelled, Path(options.features), options.val_fraction, options.seed, counting) as data:
        if options.normal is not None and options.normal not in data.classes:
            raise UserError(choices_message("class", options.normal, data.classes))
        splits, counts = data.encode(encoder, shape, device, points=reads == POINTS), data.counts()
        found = read_all(reads, options, splits, data.classes, shape, grid, device)
        about = {"encoder": options.encoder_from, "reads": reads, "data": data.identity, "clips": counts}
        chance, left_out = data.chance(), data.left_out
    title = f"{options.encoder_from} on {options.data}: {reads} of {counts['test']} clips"
    made = table(shown(title), "", *found, narrow=True)
    for name, cells in _lines(found, chance, labelled.size):
        made.add_row(name, *cells)
    console.print(made)
    if left_out:
        console.print(f"{left_out} files could not be read and are left out")
    results = {name: _plain(result) for name, result in found.items()}
    _write({**about, "classes": list(data.classes), "chance": chance, "seed": grid.seed, "probes": results}, out)


@command("probe", goes_on=False)
def main(config: Config) -> None:
    """Probe an encoder on a recording or on labelled videos."""
    options = from_config(ProbeOptions, plain_options(config), "probe")
    device = pick_device(options.device)
    (probe_recording if options.reads == STATE else probe_videos)(options, config, device)


if __name__ == "__main__":
    main()
