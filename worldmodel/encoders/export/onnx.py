"""A frozen encoder as a file in the ONNX format, which other programs run without this project and without torch.

The graph takes images as they come from a camera, uint8, and contains the resizing and normalisation that the weights
expect. Height and width are fixed, and the number of images is not. The file is compared with torch on random images
before it gets its name.

Shapes: `B` images or clips, `T` frames of a clip, `F` tubelets of a clip, `H, W` height and width of an image, `h, w`
those of the resized image, `N` tokens of an image or tubelet, `D` numbers of a token.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.core.errors import RunStopped, UserError
from worldmodel.core.onnx import OPSET, quiet_export, require_onnx
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.foreign.base import ForeignEncoder
from worldmodel.encoders.foreign.dinov2 import Dinov2Network

_BATCHES: Final = (1, 3, 2)  # images of the comparisons; none is as many as the graph was traced with
_TRACED: Final = 4
_MOST_INSIDE: Final = 1_500_000_000  # bytes of weights; a file in the ONNX format holds at most 2 GiB
# Names of inputs and outputs in the file.
IMAGES, CLIPS, TOKENS = "images", "clips", "tokens"


class _Resize(nn.Module):
    """torch's antialiased resizing of images as two products with matrices, since it is linear along each side.

    ONNX has another definition of antialiasing, whose results differ in the second digit.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, size: tuple[int, int], wanted: tuple[int, int], method: str) -> None:
        super().__init__()
        for name, before, after in zip(("rows", "columns"), size, wanted, strict=True):
            # The columns of an identity are pixels by themselves. (torch mistakes the strides of one-pixel images.)
            single = torch.eye(before)[None, None]
            resized = F.interpolate(single, (after, before), mode=method, antialias=True, align_corners=False)
            self.register_buffer(name, resized[0, 0].contiguous())

    def forward(self, planes: Tensor) -> Tensor:
        """Planes `[B, 3, H, W]` → `[B, 3, h, w]`, from 0 to 1."""
        return (self.rows @ planes @ self.columns.T).clamp(0, 1)


class _ForeignGraph(nn.Module):
    """An encoder that others have trained, with its resizing and normalisation (`ForeignEncoder.prepare`)."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: ForeignEncoder, size: tuple[int, int]) -> None:
        super().__init__()
        grid = encoder.config.grid(*size)
        wanted = (grid.rows * encoder.config.patch_size, grid.columns * encoder.config.patch_size)
        self.resize = nn.Identity() if wanted == size else _Resize(size, wanted, encoder.resize)
        network = encoder.network
        self.network = network.fitted(*grid) if isinstance(network, Dinov2Network) else network
        mean, std = encoder.statistics()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def prepare(self, pixels: Tensor) -> Tensor:
        """Images, uint8 `[B, H, W, 3]` → float `[B, h, w, 3]`."""
        resized = self.resize(pixels.permute(0, 3, 1, 2).float() / 255)
        return (resized.permute(0, 2, 3, 1) - self.mean) / self.std


class _OfImages(nn.Module):
    """Images, uint8 `[B, H, W, 3]` → tokens `[B, N, D]`."""

    def __init__(self, encoder: Encoder, size: tuple[int, int]) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.foreign = _ForeignGraph(encoder, size) if isinstance(encoder, ForeignEncoder) else None

    def forward(self, images: Tensor) -> Tensor:
        if self.foreign is None:
            return self.encoder.encode_frames(images)
        return self.foreign.network.encode_frames(self.foreign.prepare(images))


class _OfClips(_OfImages):
    """Clips, uint8 `[B, T, H, W, 3]` → tokens `[B, F, N, D]`."""

    def forward(self, clips: Tensor) -> Tensor:
        if self.foreign is None:
            return self.encoder.encode_tubelets(clips)
        frames = clips.shape[1]
        prepared = self.foreign.prepare(clips.flatten(0, 1)).unflatten(0, (-1, frames))
        return self.foreign.network(prepared).unflatten(1, (frames // self.encoder.tubelet_frames, -1))


@dataclasses.dataclass(frozen=True)
class Checked:
    """What the comparison of an exported file with torch has found.

    Attributes:
        images: number of random images or clips.
        difference: largest difference of a number, divided by the standard deviation of all.
    """

    images: int
    difference: float


def export_onnx(
    encoder: Encoder,
    path: Path,
    size: tuple[int, int],
    clip_frames: int | None,
    tolerance: float,
    seed: int,
    described: Mapping[str, str],
) -> Checked:
    """Write a frozen encoder to `path`, and beside it `<name>.data` if the weights are too large for one file.

    Args:
        encoder: the encoder, on the CPU.
        path: the file.
        size: height and width of the images [pixels].
        clip_frames: frames of a clip, T. None for an encoder of single images.
        tolerance: the largest `Checked.difference` that is accepted.
        seed: seed of the random images.
        described: texts that the file holds as its metadata.

    Raises:
        UserError: when a library is missing, or the encoder cannot encode clips of so many frames.
        RunStopped: when the file gives other features than torch. It is not written then.
    """
    require_onnx()
    if clip_frames is not None and (encoder.tubelet_frames == 1 or clip_frames % encoder.tubelet_frames):
        wanted = "null, since it encodes single images" if encoder.tubelet_frames == 1 else "whole tubelets"
        raise UserError(f"clip_frames {clip_frames}: expected {wanted} (a tubelet has {encoder.tubelet_frames} frames)")
    graph = (_OfImages if clip_frames is None else _OfClips)(encoder, size).eval()
    shape = (*(() if clip_frames is None else (clip_frames,)), *size, 3)
    # In a folder of its own, because a file names the one with its weights.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        made = Path(folder) / path.name
        _write(graph, made, shape, described)
        checked = _compare(graph, made, shape, seed)
        if not checked.difference <= tolerance:
            raise RunStopped(
                f"{path} was not written: its features differ from torch's by {checked.difference:.1e} of their spread "
                f"on random images, and tolerance is {tolerance:g}"
            )
        for file in sorted(Path(folder).iterdir(), reverse=True):  # `<name>.data` first
            file.replace(path.parent / file.name)
    return checked


def _name(shape: tuple[int, ...]) -> str:
    return IMAGES if len(shape) == 3 else CLIPS


def _write(graph: nn.Module, path: Path, shape: tuple[int, ...], described: Mapping[str, str]) -> None:
    example = torch.zeros((_TRACED, *shape), dtype=torch.uint8)
    # Tensors of a foreign network are parameters of the graph. Its own encoder module has none.
    size = sum(value.nbytes for value in graph.state_dict().values())
    with quiet_export(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=[_name(shape)],
            output_names=[TOKENS],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=2**20)},),
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(described)
        program.save(str(path), external_data=size > _MOST_INSIDE)


@torch.no_grad()
def _compare(graph: nn.Module, path: Path, shape: tuple[int, ...], seed: int) -> Checked:
    """Compare a file with `graph` on random images, in batches of several sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng, worst, squares, count = np.random.default_rng(seed), 0.0, 0.0, 0
    for batch in _BATCHES:
        images = rng.integers(0, 256, (batch, *shape), np.uint8)
        wanted = graph(torch.from_numpy(images)).numpy()
        (found,) = session.run([TOKENS], {_name(shape): images})
        if found.shape != wanted.shape:
            return Checked(sum(_BATCHES), math.inf)
        difference = float(np.abs(found - wanted).max())
        worst = max(worst, difference) if math.isfinite(difference) else math.inf
        squares, count = squares + float(np.square(wanted - wanted.mean(), dtype=np.float64).sum()), count + wanted.size
    return Checked(sum(_BATCHES), worst / max(math.sqrt(squares / count), 1e-12))
