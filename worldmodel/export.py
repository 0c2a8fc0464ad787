"""`python -m worldmodel.export env=push`: writes a frozen encoder in the ONNX format, for programs without torch."""

from __future__ import annotations

import dataclasses
import json
import math

from worldmodel.cli.command import Config, command, plain_options
from worldmodel.cli.console import console
from worldmodel.core.errors import UserError
from worldmodel.core.files import output_file
from worldmodel.core.onnx import require_onnx
from worldmodel.core.options import from_config, height_and_width
from worldmodel.core.spec import CAMERA, CameraSpec
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.export.onnx import CLIPS, IMAGES, TOKENS, export_onnx
from worldmodel.encoders.registry import describe_encoder
from worldmodel.frozen import frozen_encoder, image_size


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of `configs/export.yaml`. The file explains each."""

    encoder_from: str
    out: str
    size: int | tuple[int, ...] | None
    clip_frames: int | None
    tolerance: float
    seed: int

    def __post_init__(self) -> None:
        height_and_width(self.size)
        if self.clip_frames is not None and not 1 <= self.clip_frames <= 1024:
            raise ValueError(f"clip_frames {self.clip_frames}: expected 1 to 1024, or null")
        if not 0 < self.tolerance < math.inf or self.seed < 0:
            raise ValueError(f"tolerance {self.tolerance} and seed {self.seed}: expected above 0, and at least 0")

    @property
    def height_and_width(self) -> tuple[int, int] | None:
        """Height and width of the images [pixels]."""
        return height_and_width(self.size)


def describe(encoder: Encoder, size: tuple[int, int]) -> dict[str, str]:
    """What the file says about itself."""
    grid = encoder.config.grid(*size)
    return {
        "encoder": json.dumps(describe_encoder(encoder.config)),
        "encoder_hash": encoder.identity(),
        "images": "uint8 RGB, rows from top to bottom",
        "tokens": f"row by row, {grid.rows} rows of {grid.columns}",
    }


@command("export", goes_on=False)
def main(config: Config) -> None:
    """Write the file, and compare it with torch."""
    options = from_config(ExportOptions, plain_options(config), "export")
    require_onnx()
    size = options.height_and_width
    if size is None:
        size = image_size(options.encoder_from, config["encoder"], options.seed, "size")
    cameras = (CameraSpec(CAMERA, *size),)
    encoder = frozen_encoder(options.encoder_from, config["encoder"], cameras, options.seed)
    if options.out.rpartition(".")[2] != "onnx":
        raise UserError(f"out {options.out}: expected a file that ends in .onnx")
    encoder.config.require_fit(cameras)
    path = output_file(options.out)
    checked = export_onnx(
        encoder, path, size, options.clip_frames, options.tolerance, options.seed, describe(encoder, size)
    )
    grid, width = encoder.config.grid(*size), encoder.config.width
    clip = "" if options.clip_frames is None else f"{options.clip_frames}, "
    tubelets = "" if options.clip_frames is None else f"{options.clip_frames // encoder.tubelet_frames}, "
    console.print(
        f"{CLIPS if clip else IMAGES} uint8 [batch, {clip}{size[0]}, {size[1]}, 3] -> {TOKENS} float32 "
        f"[batch, {tubelets}{grid.tokens}, {width}]\n"
        f"{checked.images} random {CLIPS if clip else IMAGES}: onnxruntime differs from torch by at most "
        f"{checked.difference:.1e} of the features' standard deviation\nONNX file: {path}",
        markup=False,
    )


if __name__ == "__main__":
    main()
