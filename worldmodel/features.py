"""`python -m worldmodel.features env=push`: writes the features of videos or a recording, for other programs."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from worldmodel.cli.command import Config, command, plain_options
from worldmodel.cli.console import console, shown
from worldmodel.cli.progress import Steps, counting
from worldmodel.core.device import pick_device, pick_precision
from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.files import output_folder
from worldmodel.core.machine import require_memory
from worldmodel.core.options import from_config
from worldmodel.core.spec import CAMERA, CameraSpec
from worldmodel.core.text import printable, without_secrets
from worldmodel.data.videos.catalogue import catalogue_file, survey
from worldmodel.data.videos.items import EpisodeItems, Items, Pieces, ReadingConfig, VideoItems
from worldmodel.data.videos.listing import require_there
from worldmodel.data.videos.workers import Workers, require_av
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.export.rows import RowConfig, RowMaker
from worldmodel.encoders.export.shards import Place, ShardWriter
from worldmodel.encoders.jepa.sources import is_recording
from worldmodel.encoders.registry import describe_encoder
from worldmodel.frozen import frozen_encoder, image_size
from worldmodel.training.recordings import open_recording


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
    """The options in `configs/features.yaml` beside its sections. The file explains each."""

    data: str
    encoder_from: str
    out: str
    device: str
    seed: int
    shard_mb: int

    def __post_init__(self) -> None:
        if self.seed < 0 or not 1 <= self.shard_mb <= 65_536:
            raise ValueError(f"seed {self.seed} and shard_mb {self.shard_mb}: expected at least 0, and 1 to 65536")


@contextmanager
def opened(
    options: FeatureOptions, reading: ReadingConfig, config: Config
) -> Iterator[tuple[Items, Workers, tuple[CameraSpec, ...]]]:
    """What is read, the processes that read it, and the size of its images. Raises UserError."""
    with ExitStack() as stack:
        workers = stack.enter_context(Workers(reading.workers, reading.patience_s))
        if is_recording(options.data):
            store = open_recording(options.data, config["env"])
            camera = store.spec.only_camera.name if reading.camera is None else reading.camera
            if camera not in store.spec.camera_names:
                raise UserError(choices_message("camera", camera, store.spec.camera_names))
            if reading.rate_hz is not None:
                raise UserError(f"reading.rate_hz {reading.rate_hz:g} is for videos: expected reading.stride")
            if reading.size is not None:
                raise UserError(f"reading.size {reading.size} is for videos: a recording's images keep their size")
            yield EpisodeItems(store, camera, reading.stride), workers, (store.spec.camera(camera),)
            return
        require_av()
        place = Path(options.data)
        require_there(place)
        size = reading.height_and_width
        if size is None:
            size = image_size(options.encoder_from, config["encoder"], options.seed, "reading.size")
        root = None if reading.root is None else Path(reading.root)
        file = catalogue_file(output_folder(Path(options.out).parent), place, root)
        with counting("look at videos", "files") as progress:
            catalogue = stack.enter_context(closing(survey(place, root, file, workers, progress)))
        console.print(shown(f"{options.data}: {catalogue.describe()}"))
        items = VideoItems(catalogue, size, reading.stride, reading.rate_hz)
        yield items, workers, (CameraSpec(CAMERA, *size),)


def describe(
    options: FeatureOptions, rows: RowConfig, reading: ReadingConfig, items: Items, encoder: Encoder
) -> dict[str, Any]:
    """What determines the features, as plain values, and what a reader has to know of them."""
    sampled = dataclasses.asdict(reading)
    return {
        "data": without_secrets(options.data),
        "data_identity": items.identity,
        "encoder_from": options.encoder_from,
        "encoder": describe_encoder(encoder.config),
        "encoder_hash": encoder.identity(),
        **dataclasses.asdict(rows),
        **{name: sampled[name] for name in ("stride", "rate_hz", "camera")},
        "image_size": list(items.size),
        "tubelet_frames": rows.tubelet_of(encoder),
        "grid": list(encoder.config.grid(*items.size)),
        "row_shape": list(rows.shape_of(encoder, items.size)),
        "shard_mb": options.shard_mb,
    }


def require_room(folder: Path, rows: int, bytes_per_row: int) -> None:
    """Raises UserError if the features cannot fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if rows * bytes_per_row > free:
        raise UserError(
            f"{rows:,} rows of {bytes_per_row:,} bytes take {rows * bytes_per_row / 1e9:,.1f} GB, and {folder} has "
            f"{free / 1e9:,.1f} GB left: rows.pool=mean, a larger reading.stride or another out= needs less"
        )


@command("features")
def main(config: Config) -> None:
    """Encode everything once, or what is left of it, and write the rows."""
    options = from_config(FeatureOptions, plain_options(config), "features")
    rows = from_config(RowConfig, config["rows"], "rows")
    reading, device = from_config(ReadingConfig, config["reading"], "reading"), pick_device(options.device)
    rows = dataclasses.replace(rows, precision=pick_precision(rows.precision, device))
    with opened(options, reading, config) as (items, workers, cameras):
        encoder = frozen_encoder(options.encoder_from, config["encoder"], cameras, options.seed).to(device)
        description = describe(options, rows, reading, items, encoder)
        frames = rows.batch_size * rows.frames_per_piece
        # Three bytes of a pixel as they are read, in four batches, and four bytes for each as floats.
        require_memory(f"rows.batch_size={rows.batch_size}", 24.0 * frames * math.prod(items.size))
        folder, bytes_per_row = output_folder(options.out), rows.bytes_per_row(encoder, items.size)
        writer = ShardWriter(folder, description, max(1, options.shard_mb * 10**6 // bytes_per_row))
        if not writer.is_finished:
            count = rows.rows_of(items.frames, encoder)
            require_room(folder, count - writer.rows, bytes_per_row)
            of_row = " x ".join(map(str, description["row_shape"]))
            console.print(f"{count:,} rows of {of_row} numbers, {count * bytes_per_row / 1e6:,.1f} MB, to {folder}")
            writer.write_items((item, items.name(item), int(n)) for item, n in enumerate(items.frames))
            pieces = Pieces(items, rows.frames_per_piece, rows.batch_size, workers)
            steps = Steps("rows", stays=False)
            steps.begin("features", writer.rows, count)
            try:
                write(RowMaker(encoder, rows, items, device), pieces, writer, steps.step)
            finally:
                steps.end()
        report(writer, folder)


def write(maker: RowMaker, pieces: Pieces, writer: ShardWriter, progress: Callable[[int], None]) -> None:
    """Write all rows that are not there yet. An error or an interruption keeps what was encoded."""
    left_out = dict(writer.place.left_out)
    try:
        for number, batch in enumerate(pieces.batches(writer.place.batch, left_out), writer.place.batch):
            readable = []
            for piece in batch:
                if piece.refused:
                    left_out.setdefault(piece.item, printable(piece.refused))
                if piece.item not in left_out:
                    readable.append(piece)
            writer.add(maker.rows(readable), Place(number + 1, dict(left_out)))
            progress(writer.rows)
    except BaseException:
        writer.save()
        raise
    writer.finish()


def report(writer: ShardWriter, folder: Path) -> None:
    """Say what there is in the end."""
    left_out = writer.place.left_out
    if left_out:
        first = next(iter(left_out.values()))
        console.print(shown(f"{len(left_out):,} items are left out from where they cannot be read: {first}"))
    console.print(f"features: {folder}  ({writer.rows:,} rows; index.json describes them)")


if __name__ == "__main__":
    main()
