"""The part of the keypoint model that belongs to one camera: compression, keypoints and appearance embedding.

Shapes: `B` frames, `R` frames of a recording, `N` tokens of a frame, `C` channels, `K` keypoints, `L` numbers of the
appearance embedding, raw state `Z`, state `2 K + L`, `P` proprioception.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.core.spec import CameraSpec
from worldmodel.encoders.base import PatchGrid
from worldmodel.models.compression import Compression, CompressionConfig
from worldmodel.models.keypoint.appearance import AppearanceEmbedding
from worldmodel.models.keypoint.camera_alignment import CHANGE_SIZE, CameraAlignment
from worldmodel.models.keypoint.keypoints import KeypointEncoder, StateConfig, explained_variance
from worldmodel.models.keypoint.novelty import Novelty


class View(nn.Module):
    """Frozen tokens of one camera → keypoint state, standardised."""

    state_mean: Tensor
    state_std: Tensor
    robot_readable: Tensor
    keypoint_weight: Tensor | None

    def __init__(
        self,
        camera: CameraSpec,
        encoder: PatchGrid,
        compression: CompressionConfig,
        state: StateConfig,
        proprio_size: int,
    ) -> None:
        super().__init__()
        self.config, grid = state, encoder.grid_of(camera)
        self.compression = Compression(compression, grid.tokens, encoder.width)
        self.keypoints = KeypointEncoder(state, grid, self.compression.channels, proprio_size)
        self.appearance = AppearanceEmbedding(state.raw_size, state.embedding, state.embedding_width)
        # Checkpoints from before there was alignment or novelty have no such buffers.
        self.alignment = CameraAlignment(camera) if state.alignment else None
        self.novelty = Novelty(grid.tokens, self.compression.channels) if state.novelty else None
        # Nor have most of them weights.
        weights = torch.ones(state.keypoints) if state.balanced else None
        self.register_buffer("keypoint_weight", weights)
        # `calibrate` sets these after training.
        self.register_buffer("state_mean", torch.zeros(state.size))
        self.register_buffer("state_std", torch.ones(state.size))
        self.register_buffer("robot_readable", torch.zeros(proprio_size))

    def aligned(self, pixels: Tensor, hints: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images `[B, H, W, 3]` as the camera of the recording would take them. See `CameraAlignment.forward`."""
        if self.alignment is None:
            return pixels, torch.zeros(len(pixels), CHANGE_SIZE, device=pixels.device)
        aligned: tuple[Tensor, Tensor] = self.alignment(pixels, hints)
        return aligned

    def from_raw(self, raw: Tensor) -> Tensor:
        """Raw state `[B, Z]` → keypoints and appearance embedding `[B, 2 K + L]` in their own units."""
        return torch.cat([raw[:, : 2 * self.config.keypoints], self.appearance(raw)], dim=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compressed tokens `[B, N, C]` → standardised state `[B, 2 K + L]`."""
        return self.standardise(self.from_raw(self.keypoints(tokens)))

    def novelty_of(self, tokens: Tensor) -> Tensor:
        """How unlike the training frames with tokens `[B, N, C]` are, `[B]`."""
        assert self.novelty is not None, "the model's `has_novelty` is asked first"
        novelty: Tensor = self.novelty(tokens)
        return novelty

    def standardise(self, state: Tensor) -> Tensor:
        """Standardise a state `[..., 2 K + L]` in its own units."""
        return (state - self.state_mean) / self.state_std

    def parts(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints `[..., 2 K]` and appearance embedding `[..., L]` of a standardised state, in their own units."""
        own = state * self.state_std + self.state_mean
        keypoints, appearance = own.tensor_split([2 * self.config.keypoints], dim=-1)
        return keypoints, appearance

    @property
    def places_weight(self) -> Tensor | float:
        """Weights of the coordinates of the keypoints `[2 K]`, or 1 if all have the same."""
        return 1.0 if self.keypoint_weight is None else self.keypoint_weight.repeat_interleave(2)

    def calibrate(self, states: Tensor, robot_read: Tensor, proprio: Tensor) -> None:
        """Store mean and spread of `states [R, 2 K + L]`, and the R² of `robot_read [R, P]` for `proprio [R, P]`."""
        self.state_mean.copy_(states.mean(0))
        self.state_std.copy_(states.std(0).clamp_min(1e-4))
        # A constant reading says nothing about where the robot is.
        self.robot_readable.copy_(explained_variance(robot_read, proprio).nan_to_num(0.0).clamp(0, 1))
