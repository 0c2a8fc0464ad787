"""Shows a model every image as the camera of the recording would have taken it.

The model has learned to ignore small changes of the camera, but not to lose no precision by them. Where a recording's
background stands still, `worldmodel.encoders.alignment` measures how the camera differs, and this module takes that
back. What such a camera does not show is filled with the background. An image that already agrees with the recording
is left as it is, to the bit.

Shapes: `B` images, `H, W` their height and width.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.core.spec import CameraSpec
from worldmodel.encoders.alignment import Aligner, CameraChange, Pixels, background
from worldmodel.encoders.features import Frames
from worldmodel.encoders.variation import VariationConfig, vary

# Numbers of a `CameraChange`: pose, gains and inliers.
CHANGE_SIZE: Final = 8
# Below this share of the background, what was found is chance: images of noise reach a fifth.
_LEAST_INLIERS: Final = 0.4
# At this quantile of the recording's own images, estimates are the errors of the estimate.
_USUAL: Final = 0.99
# Smaller changes are not worth the blur of another sampling, and are below the noise of a camera.
_LEAST_SHIFT_PX, _LEAST_GAIN = 0.1, 0.01
# The recording is used if its own images seem to move by less than this [widths], and if what is left of an
# artificial change of the camera is below this share of it.
_STEADY, _LEFT = 0.02, 0.7
_TRIED: Final = VariationConfig(
    every=1, move=0.03, turn=3.0, zoom=0.03, light=0.1, tint=0.05, offset=0.0, blur=0.0, noise=0.01, bystander=0.0
)


class CameraAlignment(nn.Module):
    """See the module's docstring. Until `fit`, it changes nothing."""

    reference: Tensor
    trust: Tensor
    usual_inliers: Tensor
    least_shift: Tensor
    least_gain: Tensor
    reliable: Tensor

    def __init__(self, camera: CameraSpec) -> None:
        super().__init__()
        self.register_buffer("reference", torch.zeros(camera.height, camera.width, 3))
        self.register_buffer("trust", torch.ones(camera.height, camera.width))
        self.register_buffer("usual_inliers", torch.ones(1))
        self.register_buffer("least_shift", torch.zeros(1))  # [widths]
        self.register_buffer("least_gain", torch.zeros(1))
        self.register_buffer("reliable", torch.zeros(1))  # 1 for yes
        self._made: Aligner | None = None

    @property
    def is_reliable(self) -> bool:
        """Whether the recording has a background by which images can be aligned."""
        return bool(self.reliable > 0.5)

    def fit(self, frames: Pixels, others: Pixels, rng: np.random.Generator) -> dict[str, float]:
        """Learn the background, and whether it serves.

        Args:
            frames: images `[F, H, W, 3]` of the recording.
            others: other images of it `[G, H, W, 3]`, which are tried.
            rng: of the artificial changes of the camera.

        Returns:
            Quantile 0.99 of the shift [widths] and of the gain's error on `others`, and `left`, the median share of an
            artificial change of the camera that is left in the image.
        """
        reference, trust = background(frames)
        self.reference.copy_(torch.from_numpy(reference))
        self.trust.copy_(torch.from_numpy(trust))
        self._made = None
        found = [self._aligner.estimate(image) for image in others]
        shift = float(np.quantile([change.shift for change in found], _USUAL))
        gain = float(np.quantile([np.abs(change.gains - 1).max() for change in found], _USUAL))
        self.usual_inliers.fill_(float(np.quantile([change.inliers for change in found], 1 - _USUAL)))
        self.least_shift.fill_(max(shift, _LEAST_SHIFT_PX / self.reference.shape[1]))
        self.least_gain.fill_(max(gain, _LEAST_GAIN))
        self.reliable.fill_(1.0)  # for the trial
        left = float(np.median([self._left(image, rng) for image in others]))
        self.reliable.fill_(float(shift < _STEADY and left < _LEFT))
        return {"shift": shift, "gain": gain, "left": left}

    def _left(self, image: Pixels, rng: np.random.Generator) -> float:
        """The share of an artificial change of the camera that is left in `image [H, W, 3]`."""
        changed = torch.from_numpy(vary(image[None], _TRIED, rng))
        aligned, _ = self(changed)
        before, after = (
            (each[0].float() - torch.from_numpy(image).float()).abs().mean() for each in (changed, aligned)
        )
        return float(after / before.clamp_min(1e-6))

    def forward(self, pixels: Tensor, hints: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Aligned images and how their cameras differ.

        Every image is treated alone, so that the other rows of a batch make no difference.

        Args:
            pixels: images, uint8 `[B, H, W, 3]`.
            hints: how the same cameras differed one control step ago, `[B, CHANGE_SIZE]`. They only save time.

        Returns:
            Images, uint8 `[B, H, W, 3]`, and changes `[B, CHANGE_SIZE]`.
        """
        if not self.is_reliable:
            return pixels, pixels.new_zeros((len(pixels), CHANGE_SIZE), dtype=torch.float32)
        known = [None] * len(pixels) if hints is None else [_unpacked(hint) for hint in hints.cpu().numpy()]
        changes = [
            self._aligner.estimate(image, float(self.usual_inliers), hint)
            for image, hint in zip(pixels.cpu().numpy(), known, strict=True)
        ]
        aligned = torch.stack([self._taken_back(image, change) for image, change in zip(pixels, changes, strict=True)])
        return aligned, torch.tensor(np.stack([_packed(change) for change in changes]), device=pixels.device)

    @property
    def _aligner(self) -> Aligner:
        if self._made is None:
            self._made = Aligner(self.reference.cpu().double().numpy(), self.trust.cpu().double().numpy())
        return self._made

    def _taken_back(self, image: Tensor, change: CameraChange) -> Tensor:
        """`image [H, W, 3]` as the camera of the recording would have taken it, uint8."""
        if change.inliers < _LEAST_INLIERS or not change.is_plausible:
            return image
        is_moved = change.shift > float(self.least_shift)
        gains = torch.as_tensor(change.gains, dtype=torch.float32, device=image.device)
        is_lit = bool((gains - 1).abs().max() > self.least_gain)
        if not (is_moved or is_lit):
            return image
        colours = image.float()
        if is_lit:
            colours = colours * gains
        if is_moved:
            colours = self._moved_back(colours, change)
        return colours.round_().clamp_(0, 255).byte()

    def _moved_back(self, colours: Tensor, change: CameraChange) -> Tensor:
        """`colours [H, W, 3]` from where the camera of the recording stands."""
        zoom, turn, right, down = map(float, change.pose)
        ratio = colours.shape[0] / colours.shape[1]
        # torch counts places from -1 to 1 along each side, and `CameraChange` in widths from the centre.
        matrix = [[1 + zoom, -turn * ratio, 2 * right], [turn / ratio, 1 + zoom, 2 * down / ratio]]
        grid = F.affine_grid(torch.tensor([matrix], device=colours.device), [1, 3, *colours.shape[:2]], False)
        source = colours.permute(2, 0, 1)[None]
        seen = F.grid_sample(source, grid, mode="bicubic", padding_mode="border", align_corners=False)
        is_visible = (grid.abs() <= 1).all(-1)[0][..., None]
        return torch.where(is_visible, seen[0].permute(1, 2, 0), self.reference.float())


@dataclasses.dataclass(frozen=True)
class AlignedFrames:
    """Frames `[R, H, W, 3]` of a recording, aligned when they are asked for."""

    frames: Frames
    alignment: CameraAlignment

    @torch.no_grad()
    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """See `Frames`."""
        aligned, _ = self.alignment(torch.from_numpy(np.array(self.frames[rows])).to(self.alignment.reference.device))
        return np.asarray(aligned.cpu().numpy())


def _packed(change: CameraChange) -> NDArray[np.float32]:
    return np.array([*change.pose, *change.gains, change.inliers], np.float32)


def _unpacked(numbers: NDArray[np.float32]) -> CameraChange:
    exact = np.asarray(numbers, np.float64)
    return CameraChange(exact[:4], exact[4:7], float(exact[7]))
