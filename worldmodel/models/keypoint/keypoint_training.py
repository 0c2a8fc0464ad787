"""Training the keypoints on frozen features, as a `TrainingTask`.

Shapes as in `worldmodel.models.keypoint.keypoints`. `R` rows of the recording, `M` frames of one episode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from worldmodel.core.ranks import ALONE, Rank
from worldmodel.core.seeds import seed_of_step
from worldmodel.models.features import VariedTokens
from worldmodel.models.keypoint.keypoints import KeypointEncoder, TokenDecoder, explained_variance
from worldmodel.training.trainer import TrainingTask

# `(step) -> rows [B, 2]` of that step's pairs: the frame that is encoded, and the neighbour that is reconstructed.
PairRows = Callable[[int], NDArray[np.int64]]
# Frames whose states are computed at once. Tensors of more than a thousand are not used again on a CPU, which takes a
# third of the time (`worldmodel.core.machine.reuse_freed_memory`).
_AT_ONCE: Final = 256


@dataclasses.dataclass(frozen=True)
class StateTrainingConfig:
    """Options of the training of keypoints and features.

    Attributes:
        frames_per_episode: frames M of each episode in a batch. A reconstruction error that all of them share does not
            count, so the state need not describe what is constant in an episode. With 1, every error counts.
        gap: the frame that is reconstructed is at most this many control steps away from the one that is encoded.
        noise: standard deviation of noise on the raw state, so that similar states mean similar scenes.
        feature_decay: weight of the features' mean square, which keeps them from outgrowing the noise.
        robot_weight: weight of the error in reading proprioception from the image.
        align_weight: weight of the difference between the states of a varied image and of the original one.
    """

    frames_per_episode: int = 4
    gap: int = 3
    noise: float = 0.03
    feature_decay: float = 1e-3
    robot_weight: float = 0.1
    align_weight: float = 1.0

    def __post_init__(self) -> None:
        if min(self.frames_per_episode, self.gap) < 1:
            raise ValueError(f"frames_per_episode and gap must be at least 1, got {self}")
        if min(self.noise, self.feature_decay, self.robot_weight, self.align_weight) < 0:
            raise ValueError(f"noise and weights must not be negative, got {self}")


class KeypointAutoencoder(nn.Module):
    """The encoder, which is kept in the world model, and the decoder, which is only used in training."""

    def __init__(self, encoder: KeypointEncoder, channels: int, proprio_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = TokenDecoder(encoder.config, encoder.grid, channels, proprio_size)


class KeypointTask(TrainingTask):
    """Reconstructing the tokens of a neighbouring frame.

    loss = mean |d_ij - mean d|^2 M / (M - 1) + w_f |features|^2 + w_r |robot(z_i) - proprio_i|^2,
    d_ij = decode(raw_i + noise, proprio_j) - z_j, and `mean d` is its mean over M frames of an episode. With a
    `RobotImage`, `decode` has to say what that does not, and neither it nor the reading of the robot learns further.

    If frame i has a varied image, the state is computed from that image, and the target remains the original one. The
    loss then also has the term `w_a |raw_i - raw(original)_i|^2`. The keypoints in `raw(original)` have no gradient.

    Args:
        tokens: compressed frozen features, float16 `[R, N, C]`.
        varied: features of varied images of some frames.
        proprio: standardised proprioception, float32 `[R, P]`.
        pairs: rows `[B, 2]` for a step. Each run of M successive pairs is of one episode.
        held_out: rows `[B, 2]` to report on, in the same order.
    """

    def __init__(
        self,
        module: KeypointAutoencoder,
        config: StateTrainingConfig,
        tokens: NDArray[np.float16],
        varied: VariedTokens,
        proprio: Tensor,
        pairs: PairRows,
        held_out: NDArray[np.int64],
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: KeypointAutoencoder = module
        self._config, self._tokens, self._varied, self._proprio = config, tokens, varied, proprio
        self._pairs, self._held_out, self._seed, self._device = pairs, held_out, seed, device
        self._rank = ALONE

    def share(self, rank: Rank) -> None:
        """See `TrainingTask.share`."""
        self._rank = rank

    def _load(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        tokens = torch.from_numpy(self._tokens[rows]).to(self._device).float()
        return tokens, self._proprio[rows].to(self._device)

    def loss(self, step: int) -> dict[str, Tensor]:
        """This rank's share of one batch. The frames of an episode stay together."""
        batch, config = self._pairs(step), self._config
        rows = self._rank.share(batch, config.frames_per_episode)
        (tokens, here), (wanted, there) = self._load(rows[:, 0]), self._load(rows[:, 1])
        encoder = self.module.encoder
        original = tokens = self._seen(rows[:, 0], tokens)
        changed = torch.from_numpy(self._varied.are_there(rows[:, 0])).to(self._device)
        num_changed = int(self._varied.are_there(batch[:, 0]).sum())  # of all ranks
        if num_changed:
            tokens = self._with_varied(tokens, rows[:, 0], step)
        raw = encoder(tokens)
        generator = torch.Generator().manual_seed(seed_of_step(self._seed, step))
        noise = torch.randn((len(batch), *raw.shape[1:]), generator=generator)
        noise = self._rank.share(noise, config.frames_per_episode).to(self._device)
        error = self.module.decoder(raw + config.noise * noise, there).float() + encoder.shown(there) - wanted
        reconstruction = self._within_episodes(error).mean()
        features = raw[:, 2 * encoder.config.keypoints :].pow(2).mean()
        robot = _misread(encoder, tokens, here)
        loss = reconstruction + config.feature_decay * features + config.robot_weight * robot
        values = {"reconstruction": reconstruction, "robot": robot}
        if num_changed:
            # Of keypoints, only the varied side learns, so that those of the original image lose no precision. Of
            # features, both do. If only the varied side did, and its features were smaller, all would grow forever.
            places, features_of = encoder(original[changed]).tensor_split([2 * encoder.config.keypoints], dim=1)
            apart = (raw[changed] - torch.cat([places.detach(), features_of], dim=1)).pow(2)
            values["align"] = self._mean(apart, num_changed)
            loss = loss + config.align_weight * values["align"]
        return {"loss": loss, **values}

    def _mean(self, rows: Tensor, count: int) -> Tensor:
        """The part of this rank in the mean of `rows [..., Z]`, of which all ranks together have `count`."""
        return rows.mean() if self._rank.count == 1 else rows.sum() * self._rank.count / (count * rows.shape[1])

    def _seen(self, rows: NDArray[np.int64], tokens: Tensor) -> Tensor:
        """What the state of `rows [B]` is computed from `[B, N, C]`: here their `tokens`, which are the targets too."""
        return tokens

    def _with_varied(self, tokens: Tensor, rows: NDArray[np.int64], step: int) -> Tensor:
        """`tokens [B, N, C]` of `rows [B]`, from varied images where there are some."""
        there = self._varied.are_there(rows)
        varied = torch.from_numpy(self._varied.tokens[self._varied.at(rows[there])]).to(self._device).float()
        return tokens.masked_scatter(torch.from_numpy(there).to(self._device)[:, None, None], varied)

    def _within_episodes(self, tokens: Tensor) -> Tensor:
        """Mean square `[B]` of the difference of `tokens [B, N, C]` to their mean over M frames of an episode."""
        count = self._config.frames_per_episode
        if count > 1:
            grouped = tokens.unflatten(0, (-1, count))
            tokens = ((grouped - grouped.mean(1, keepdim=True)) * (count / (count - 1)) ** 0.5).flatten(0, 1)
        return tokens.pow(2).mean((1, 2))

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Explained shares of the variance within held-out episodes, of the tokens and of proprioception."""
        errors, robots = [], []
        size = 64 * self._config.frames_per_episode
        for start in range(0, len(self._held_out), size):
            rows = self._held_out[start : start + size]
            wanted, here = self._load(rows[:, 0])
            encoder, tokens = self.module.encoder, self._seen(rows[:, 0], wanted)
            decoded = self.module.decoder(encoder(tokens), here) + encoder.shown(here)
            errors.append(torch.stack([self._within_episodes(x) for x in (decoded - wanted, wanted)], dim=1))
            robots.append(torch.stack([encoder.robot(tokens), here]))
        error, power = torch.cat(errors).mean(0)
        return {"tokens_r2": float(1 - error / power), **_reading(*torch.cat(robots, dim=1))}


class RobotTask(KeypointTask):
    """Reading the robot from an image, and showing what it alone looks like, before there are keypoints.

    loss = mean |e_i - mean e|^2 M / (M - 1) + |read(z_i) - proprio_i|^2, e_i = show(proprio_i) - z_i

    A varied image of frame i replaces z_i in the second term.
    """

    def loss(self, step: int) -> dict[str, Tensor]:
        """This rank's share of one batch. The frames of an episode stay together."""
        rows = self._rank.share(self._pairs(step), self._config.frames_per_episode)[:, 0]
        tokens, here = self._load(rows)
        encoder = self.module.encoder
        shown = self._within_episodes(encoder.shown(here) - tokens).mean()
        if self._varied.every:
            tokens = self._with_varied(tokens, rows, step)
        robot = _misread(encoder, tokens, here)
        return {"loss": shown + robot, "shown": shown, "robot": robot}

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Explained share of the variance within held-out episodes, and how well proprioception is read."""
        rows = self._held_out[:, 0]
        tokens, here = self._load(rows)
        encoder = self.module.encoder
        left = self._within_episodes(encoder.shown(here) - tokens).mean() / self._within_episodes(tokens).mean()
        return {"robot_tokens_r2": float(1 - left), **_reading(encoder.robot(tokens), here)}


def _misread(encoder: KeypointEncoder, tokens: Tensor, proprio: Tensor) -> Tensor:
    """Mean square error in reading `proprio [B, P]` from tokens. Without proprioception, it is 0."""
    if not proprio.shape[1]:  # the mean would be over nothing and hence NaN
        return tokens.new_zeros(())
    return F.mse_loss(encoder.robot(tokens), proprio)


def _reading(read: Tensor, true: Tensor) -> dict[str, float]:
    """R² of every dimension of proprioception that varies, by name."""
    scores = explained_variance(read, true)
    return {f"robot_r2_{i:02d}": float(r2) for i, r2 in enumerate(scores) if not torch.isnan(r2)}


def neighbours(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Pairs `[B, 2]` from clips `rows [B, L]`. Half of them are twice the same frame, the others two different frames.

    With the same frame, the state must be exact. With different frames, the robot has moved.
    """
    count, length = rows.shape
    first = rng.integers(0, length, count)
    second = np.where(rng.random(count) < 0.5, first, rng.integers(0, length, count))
    picked = np.arange(count)
    return np.stack([rows[picked, first], rows[picked, second]], axis=1)


@torch.no_grad()
def encode_tokens(
    encoder: KeypointEncoder, tokens: NDArray[np.float16], device: torch.device, progress: Callable[[int, int], None]
) -> tuple[Tensor, Tensor]:
    """Raw states `[R, Z]` and robot readings `[R, P]` of compressed tokens `[R, N, C]`, on the CPU.

    The encoder is moved to `device`.
    """
    encoder.to(device)
    raw, robots = [], []
    for start in range(0, max(1, len(tokens)), _AT_ONCE):  # also of none, for the shapes
        block = torch.from_numpy(tokens[start : start + _AT_ONCE].astype(np.float32)).to(device)
        raw.append(encoder(block).cpu())
        robots.append(encoder.robot(block).cpu())
        progress(start + len(block), len(tokens))
    return torch.cat(raw), torch.cat(robots)
