"""Training the appearance embedding on the raw states of a recording, as a `TrainingTask`.

Shapes as in `worldmodel.models.keypoint.appearance`. A step has `B` frames, in `G` groups of `M`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.core.ranks import ALONE, Rank
from worldmodel.data.clips import episode_starts
from worldmodel.models.features import VariedTokens
from worldmodel.models.keypoint.appearance import AppearanceEmbedding, principal_places, rests
from worldmodel.training.trainer import TrainingTask


@dataclasses.dataclass(frozen=True)
class AppearanceTrainingConfig:
    """Options of the training of the appearance embedding.

    Attributes:
        group: frames that are told apart from each other, M.
        gap: a frame's neighbour in time is at most this many control steps away.
        temperature: temperature of the contrastive loss.
        rest: keypoints that move less than this per control step are at rest [half widths of the image].
        rest_weight: weight of the difference between embeddings of a scene at rest.
        pool: frames among which frames with the same keypoint positions are searched.
    """

    group: int = 32
    gap: int = 3
    temperature: float = 0.07
    rest: float = 0.035
    rest_weight: float = 3.0
    pool: int = 60_000

    def __post_init__(self) -> None:
        if self.group < 2 or self.gap < 1 or self.pool < self.group:
            raise ValueError(f"group, gap and pool must be at least 2, 1 and group, got {self}")
        if not self.temperature > 0 or min(self.rest, self.rest_weight) < 0:
            raise ValueError(f"temperature must be above 0, rest and rest_weight not negative, got {self}")


@dataclasses.dataclass(frozen=True)
class Groups:
    """Groups of frames whose keypoints have nearly the same positions, and a partner for each frame.

    Attributes:
        anchors: rows `[G, M]` of the frames.
        partners: rows `[G, M]` of the partners, each a neighbour in time or a frame of the same period of rest.
        at_rest: bool `[G, M]`, whether the partner is of the same period of rest.
    """

    anchors: NDArray[np.int64]
    partners: NDArray[np.int64]
    at_rest: NDArray[np.bool_]

    def share(self, rank: Rank) -> Groups:
        """The groups of one of several ranks."""
        return Groups(rank.share(self.anchors), rank.share(self.partners), rank.share(self.at_rest))


class GroupSampler:
    """Draws groups. The groups of a step depend only on (seed, step).

    Args:
        raw: states of all frames `[R, Z]`, the keypoints first.
        keypoints: number of keypoints, K.
        episode_ends: row after the last one of each episode.
        rows: rows of whole episodes, from which anchors are drawn.
        seed: seed of the draws.
    """

    def __init__(
        self,
        raw: Tensor,
        keypoints: int,
        episode_ends: NDArray[np.int64],
        rows: NDArray[np.int64],
        config: AppearanceTrainingConfig,
        seed: int,
    ) -> None:
        self._config, self._seed = config, seed
        places = raw[:, : 2 * keypoints]
        self._rest = rests(places, episode_ends, config.rest).numpy()
        episode = np.searchsorted(episode_ends, np.arange(len(raw)), side="right")
        starts = episode_starts(episode_ends)
        self._first, self._last = starts[episode], episode_ends[episode] - 1
        rng = np.random.default_rng(seed)
        self._pool = np.sort(rng.choice(rows, min(config.pool, len(rows)), replace=False))
        self._places = principal_places(places)[self._pool]

    def sample(self, step: int, frames: int) -> Groups:
        """Groups with about `frames` frames in all."""
        rng, config = np.random.default_rng([self._seed, step]), self._config
        size = min(config.group, len(self._pool))
        centres = rng.integers(len(self._pool), size=max(1, frames // size))
        nearest = torch.cdist(self._places[centres], self._places).topk(size, largest=False).indices
        anchors = self._pool[nearest.numpy()]
        first, last = self._first[anchors], self._last[anchors]
        offset = rng.integers(1, config.gap + 1, anchors.shape) * rng.choice([-1, 1], anchors.shape)
        neighbour = np.clip(anchors + offset, first, last)
        any_frame = rng.integers(first, last + 1)
        at_rest = self._rest[any_frame] == self._rest[anchors]
        return Groups(anchors, np.where(at_rest, any_frame, neighbour), at_rest)


@dataclasses.dataclass(frozen=True)
class VariedStates:
    """Raw states of varied images of some frames.

    Attributes:
        raw: `[V, Z]`.
        tokens: what they were read from.
    """

    raw: Tensor
    tokens: VariedTokens

    def in_place_of(self, raw: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """`raw [..., Z]` of `rows [...]`, from varied images where there are some."""
        there = self.tokens.are_there(rows)
        varied = self.raw[self.tokens.at(rows[there])]
        return raw.masked_scatter(torch.from_numpy(there)[..., None], varied)


class AppearanceTask(TrainingTask):
    """loss = cross entropy of telling each frame's partner from the others of its group + w |e - e'|^2 at rest.

    `e` and `e'` are the embeddings of a frame and its partner. The others are anchors, whose keypoints have nearly the
    same positions. The partners of other anchors are not used, because partners may have moved. The right one could
    then be told by its position, and the embedding would encode position.

    Args:
        raw: states of all frames `[R, Z]`. The embedding standardises them itself.
        varied: states of varied images. They replace the states of partners that have one.
        sampler: draws the groups to learn from.
        held_out: groups to report on.
        batch_size: frames per step.
    """

    def __init__(
        self,
        module: AppearanceEmbedding,
        config: AppearanceTrainingConfig,
        raw: Tensor,
        varied: VariedStates,
        sampler: GroupSampler,
        held_out: Groups,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.module: AppearanceEmbedding = module
        self._config, self._raw, self._sampler, self._held_out = config, raw, sampler, held_out
        self._varied = varied
        self._batch_size, self._device, self._rank = batch_size, device, ALONE

    def share(self, rank: Rank) -> None:
        """See `TrainingTask.share`."""
        self._rank = rank

    def _measure(self, groups: Groups, varied: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines `[G, M, M]` between anchors (on the diagonal with partners), `|e - e'|^2 [G, M]`, and `at_rest`."""
        partners = self._raw[groups.partners]
        if varied:
            partners = self._varied.in_place_of(partners, groups.partners)
        own, others = (self.module(raw.to(self._device)) for raw in (self._raw[groups.anchors], partners))
        diagonal = torch.eye(own.shape[1], dtype=torch.bool, device=self._device)
        partner = (own * others).sum(-1, keepdim=True)
        cosines = torch.where(diagonal, partner, torch.einsum("gml,gnl->gmn", own, own))
        return cosines, (own - others).pow(2).sum(-1), torch.from_numpy(groups.at_rest).to(self._device)

    def loss(self, step: int) -> dict[str, Tensor]:
        """This rank's share of one batch."""
        groups = self._sampler.sample(step, self._batch_size).share(self._rank)
        cosines, apart, at_rest = self._measure(groups, varied=True)
        own = torch.arange(cosines.shape[1], device=self._device).expand(len(cosines), -1)
        told_apart = F.cross_entropy(cosines.flatten(0, 1) / self._config.temperature, own.flatten())
        resting = (apart * at_rest).mean()
        return {"loss": told_apart + self._config.rest_weight * resting, "contrast": told_apart, "resting": resting}

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """How often a frame's partner is more similar to it than the others, and how much embeddings change at rest.

        `rest_distance` is in units of the distance between frames of one group. 0 is perfect, 1 is useless.
        """
        cosines, apart, at_rest = self._measure(self._held_out, varied=False)
        own = torch.arange(cosines.shape[1], device=self._device)
        of_group = (2 - 2 * cosines).mean().sqrt()
        rest = apart[at_rest].mean().sqrt() if bool(at_rest.any()) else of_group
        found = (cosines.argmax(-1) == own).float().mean()
        return {"partner_found": float(found), "rest_distance": float(rest / of_group.clamp_min(1e-6))}
