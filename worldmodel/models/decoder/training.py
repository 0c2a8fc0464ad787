"""Training of a decoder on the recording, after everything else is frozen, as a `TrainingTask`.

Shapes: `R` rows of the recording, `M` selected rows, `B` rows of a batch, `D` numbers of a code, `H, W` height and
width of a camera's images, `N` squares of an image, `S` drawn squares, `p` side of a square [pixels], `P`
proprioception.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.errors import UserError
from worldmodel.core.observation import Observation
from worldmodel.core.row_cache import cached_rows
from worldmodel.core.seeds import seed_of_step
from worldmodel.core.threads import map_in_threads
from worldmodel.data.clips import Split, episode_starts, rows_of
from worldmodel.models.contract import WorldModel
from worldmodel.models.decoder.decoder import DecoderNetwork, code_size, require_decodable
from worldmodel.training.trainer import TrainingTask

Frames = Mapping[str, NDArray[np.uint8]]
Rows = NDArray[np.int64]
_AT_ONCE: Final = 128
_MEAN_FRAMES: Final = 4096  # frames that the mean image is computed from


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """Options of the training data of a decoder.

    Attributes:
        frames: number of training frames, M.
        held_out_frames: number of frames of held-out episodes on which figures are computed.
        squares: number of squares of every image that are drawn in a step, S.
        anywhere: share of the squares that are drawn uniformly. The others are drawn in proportion to their difference
            from the mean image, because most of an image never changes.
    """

    frames: int = 20_000
    held_out_frames: int = 1000
    squares: int = 32
    anywhere: float = 0.3

    def __post_init__(self) -> None:
        if min(self.frames, self.held_out_frames, self.squares) < 1:
            received = f"{self.frames}, {self.held_out_frames} and {self.squares}"
            raise ValueError(f"frames, held_out_frames and squares must be at least 1, got {received}")
        if not 0 < self.anywhere <= 1:
            raise ValueError(f"anywhere {self.anywhere} must be above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The rows of the recording that are used, in ascending order.

    Attributes:
        train: rows `[M]` for training.
        held_out: rows `[M']` for figures. Each has a previous row in its episode.
    """

    train: Rows
    held_out: Rows

    @classmethod
    def of(cls, episode_ends: Rows, split: Split, config: DecodingConfig, seed: int) -> Chosen:
        """A random selection. Raises UserError if no held-out episode has two frames."""
        held_out = rows_of(episode_ends, split.held_out) if len(split.held_out) else np.zeros(0, np.int64)
        available = np.setdiff1d(held_out, episode_starts(episode_ends))
        if not len(available):
            raise UserError(
                "held_out_fraction leaves no held-out episode of at least 2 frames: a larger one is needed, since the "
                "decoder is tested on such episodes"
            )
        rng = np.random.default_rng(seed)

        def some(rows: Rows, count: int) -> Rows:
            return np.sort(rng.choice(rows, min(count, len(rows)), replace=False))

        train = some(rows_of(episode_ends, split.train), config.frames)
        return cls(train, some(available, config.held_out_frames))


def encode_codes(
    model: WorldModel,
    frames: Frames,
    proprio: NDArray[np.float32],
    rows: Rows,
    identity: str,
    path: Path,
    progress: Callable[[int, int], None],
    with_goals: bool = False,
) -> Tensor:
    """Codes `[M, 1, D]` of the frames at `rows [M]`, float32, from the cache `path` or computed and written to it.

    `cached_rows` says how an interrupted run goes on.

    Args:
        model: the world model of the decoder.
        frames: images by camera, uint8 `[R, H, W, 3]`.
        proprio: proprioception `[R, P]`.
        rows: the rows to encode.
        identity: identity of recording and model. A cache with another identity, or a damaged one, is rebuilt.
        path: the cache, which ends in `.npy` and can be removed at any time.
        progress: function that is called with (rows done, rows in all).
        with_goals: add the codes of the same images as goals, which have no proprioception: `[M, 2, D]`.

    Raises:
        OSError: if writing fails.
    """
    decodable, size = require_decodable(model), code_size(model)

    def encode_some(some: Rows) -> Tensor:
        # As at the start of an episode, because an image does not depend on the past.
        images = {camera: np.array(of_camera[some]) for camera, of_camera in frames.items()}
        seen = Observation(images, np.array(proprio[some]))
        with torch.no_grad():
            latents = [model.observe(None, seen, None)]
            if with_goals:
                latents.append(model.seen_as_goals(seen, latents[0]))
            codes = [decodable.decodable(latent).float().cpu() for latent in latents]
        return torch.stack(codes, dim=1)

    def encode(start: int, stop: int) -> NDArray[np.float32]:
        return torch.cat(map_in_threads(encode_some, _parts(rows[start:stop]), model.device)).numpy()

    key = {"identity": identity, "rows": hashlib.sha256(rows.tobytes()).hexdigest(), "goals": with_goals}
    codes = cached_rows(path, key, (len(rows), 1 + with_goals, size), np.float32, encode, progress)
    return torch.from_numpy(np.array(codes))


class DecoderTask(TrainingTask):
    """Training to decode codes to images.

    loss = mean_cameras mean (x̂ - x)², images x from 0 to 1

    The loss is estimated from S squares of each image. A square that is drawn with probability p_n has the weight
    1 / (N p_n), so that the estimate has no bias (importance sampling).

    Args:
        module: the network, whose mean images are set here.
        config: options of the training data.
        frames: images by camera, uint8 `[R, H, W, 3]`.
        chosen: rows for training and for figures.
        codes: codes of the training rows, followed by those of the held-out rows, `[M + M', D]`.
        batch_size: number of frames per step, B.
        seed: seed of all randomness.
        device: device of the training.
    """

    def __init__(
        self,
        module: DecoderNetwork,
        config: DecodingConfig,
        frames: Frames,
        chosen: Chosen,
        codes: Tensor,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: DecoderNetwork = module
        self._config, self._frames, self._chosen, self._codes = config, frames, chosen, codes
        self._batch_size, self._seed, self._device = batch_size, seed, device
        stride = -(-len(chosen.train) // _MEAN_FRAMES)
        for camera in module.cameras:
            module.of(camera).mean.copy_(self._mean(camera, chosen.train[::stride]))

    def _mean(self, camera: str, rows: Rows) -> Tensor:
        total = sum(self._images(camera, part).double().sum(0).cpu() for part in _parts(rows))
        assert isinstance(total, Tensor)
        return (total / len(rows)).float()

    def _images(self, camera: str, rows: Rows) -> Tensor:
        """Images `[B, 3, H, W]`, from 0 to 1."""
        return torch.from_numpy(self._frames[camera][rows]).to(self._device).movedim(-1, 1).float() / 255

    def loss(self, step: int) -> dict[str, Tensor]:
        """The loss of one batch."""
        rng = np.random.default_rng([self._seed, step])
        picked = rng.integers(len(self._chosen.train), size=self._batch_size)
        generator = torch.Generator().manual_seed(seed_of_step(self._seed, step))
        codes = self._codes[picked].to(self._device)
        errors = []
        for camera in self.module.cameras:
            network = self.module.of(camera)
            squares = network.cut(self._images(camera, self._chosen.train[picked]))
            which, weight = draw_squares(squares, self._config, generator)
            wanted = squares.gather(1, which[..., None].expand(-1, -1, squares.shape[2]))
            errors.append((weight * (network.squares(codes, which) - wanted).pow(2).mean(-1)).mean())
        return {"loss": torch.stack(errors).mean()}

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """PSNR [dB] of the decoder, of the mean image and of the previous frame, on held-out frames.

        With several cameras, it is the mean over the cameras.
        """
        held_out = self._chosen.held_out
        scores = []
        for camera in self.module.cameras:
            network, squared, done = self.module.of(camera), torch.zeros(3, dtype=torch.double), len(self._chosen.train)
            for part in _parts(held_out):
                real, before = self._images(camera, part), self._images(camera, part - 1)
                drawn = network(self._codes[done : done + len(part)].to(self._device)).clamp(0, 1)
                guesses = (drawn, network.mean.expand_as(real), before)
                errors = [(guess - real).double().pow(2).mean((1, 2, 3)).sum() for guess in guesses]
                squared += torch.stack(errors).cpu()
                done += len(part)
            scores.append(-10 * torch.log10((squared / len(held_out)).clamp_min(1e-12)))
        decoder, mean, previous = torch.stack(scores).mean(0).tolist()
        return {"psnr": decoder, "psnr_mean_image": mean, "psnr_previous_frame": previous}


def draw_squares(squares: Tensor, config: DecodingConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of the drawn squares `[B, S]`, and their weights `[B, S]`, which are 1 on average.

    Args:
        squares: differences of all squares from the mean image `[B, N, 3 p²]`.
        config: number of squares, and the share that is drawn uniformly.
        generator: source of all randomness.
    """
    count, seen = squares.shape[1], squares.pow(2).mean(-1)
    share = seen / seen.sum(1, keepdim=True).clamp_min(1e-12)
    # All squares of an image that equals the mean image are drawn uniformly.
    drawn_there = (1 - config.anywhere) * (share.sum(1, keepdim=True) > 0.5)
    probability = (1 - drawn_there) / count + drawn_there * share
    which = torch.multinomial(probability.cpu(), config.squares, replacement=True, generator=generator)
    which = which.to(squares.device)
    return which, 1 / (count * probability.gather(1, which))


def _parts(rows: Rows) -> list[Rows]:
    return np.array_split(rows, -(-len(rows) // _AT_ONCE))
