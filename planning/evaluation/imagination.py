"""What plans promised, beside what happened: noted while a run goes on, compared when it is over.

Shapes: `T` control steps that were noted, `H` control steps of a plan, `D` numbers of a code, `F` of the features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from planning.controller import Decision
from planning.evaluation.rollout import Policy
from planning.evaluation.task import Task
from planning.types import Decoder
from worldmodel.core.observation import Observation

Images = Mapping[str, NDArray[np.uint8]]
_MOST_STEPS: Final = 1000  # that are noted; the images of a longer run would fill the memory
_MOST_COMPARED: Final = 50  # plans, spread over the run: more of them would take longer than the run


@dataclasses.dataclass(frozen=True)
class Promise:
    """One plan.

    Attributes:
        step: control step at which it was made, from 0 on.
        codes: what was imagined to be seen after each of its actions, `[H, D]`.
    """

    step: int
    codes: Tensor

    def covers(self, step: int) -> bool:
        """Whether it says what control step `step` would look like."""
        return self.step < step <= self.step + len(self.codes)


class Watched(Policy):
    """A policy for one environment, whose observations and plans are noted, the first 1,000 steps of them.

    Attributes:
        decoder: shows what was imagined.
        seen: observations `[1, ...]` at every control step, `T + 1` of them.
        promises: the plans, in the order in which they were made.
    """

    def __init__(self, policy: Policy, decoder: Decoder) -> None:
        self._policy, self.decoder = policy, decoder
        self.seen: list[Observation] = []
        self.promises: list[Promise] = []

    def reset(self, tasks: Sequence[Task]) -> None:
        """See `Policy.reset`."""
        self.seen, self.promises = [], []
        self._policy.reset(tasks)

    def act(self, observation: Observation) -> Decision:
        """See `Policy.act`."""
        decision = self._policy.act(observation)
        step = len(self.seen)
        if step <= _MOST_STEPS:
            self.seen.append(observation.copy())
            # Not `decision.imagined`, which would keep the latents of every step for as long as the decisions.
            (imagined,) = decision.imagine() if decision.planned else (None,)
            if imagined is not None:
                self.promises.append(Promise(step, self.decoder.code(imagined)[0, 0].cpu()))
        return decision


@dataclasses.dataclass(frozen=True)
class Promised:
    """How far plans were from what happened, by control steps ahead, from 0 on.

    Step 0 is what was just seen, decoded: the decoder's own part in all other errors. If a plan is replaced before its
    end, what happened later is not what it asked for, and that counts as well.

    Attributes:
        pairs: how many images were compared.
        pixels: root mean square difference of the pixels, of 255.
        features: root mean square difference of the frozen encoder's features.
        pixels_unchanged: the former, had the plan said that nothing changes.
        features_unchanged: the latter, had it said so.
    """

    pairs: list[int]
    pixels: list[float]
    features: list[float]
    pixels_unchanged: list[float]
    features_unchanged: list[float]


class Comparison:
    """A run that is over, in images.

    Args:
        watched: what was noted of it.
    """

    def __init__(self, watched: Watched) -> None:
        self._decoder, self._promises = watched.decoder, watched.promises
        cameras = watched.seen[0].images
        self.seen = {name: np.concatenate([one.images[name] for one in watched.seen]) for name in cameras}
        proprio = np.concatenate([one.proprio for one in watched.seen])
        self._now = _on_cpu(self._decoder.reconstruct(Observation(self.seen, proprio)))

    def __len__(self) -> int:
        """Images of each camera, `T + 1`."""
        return len(next(iter(self.seen.values())))

    def shown(self, step: int, ahead: int) -> tuple[int, Images] | None:
        """What control step `step` was imagined to look like, `[H', W', 3]` by camera, and how many steps before.

        It is said by the plan that was made as nearly as possible `ahead` steps before. At step 0, where nothing had
        been planned, it is what was just seen, decoded. None where no plan says anything.
        """
        if step == 0:
            return 0, {name: images[0] for name, images in self._now.items()}
        covering = [promise for promise in self._promises if promise.covers(step)]
        if not covering:
            return None
        chosen = min(covering, key=lambda promise: (abs(step - promise.step - ahead), promise.step))
        before = step - chosen.step
        images = _on_cpu(self._decoder.show(chosen.codes[before - 1 : before]))
        return before, {name: one[0] for name, one in images.items()}

    def promised(self) -> Promised:
        """See `Promised`."""
        last, seen = len(self) - 1, self._decoder.features(self.seen)
        own_pixels, own = pixel_error(self._now, self.seen), self._distance(self._decoder.features(self._now), seen)
        nothing = np.zeros(len(own))
        found = {0: [np.stack([own_pixels, own, nothing, nothing])]}
        spread = np.linspace(0, len(self._promises) - 1, min(len(self._promises), _MOST_COMPARED)).round().astype(int)
        for promise in (self._promises[i] for i in spread):
            steps = np.arange(promise.step + 1, min(promise.step + len(promise.codes), last) + 1)
            if len(steps):
                for ahead, values in enumerate(self._errors(promise, steps, seen).T, 1):
                    found.setdefault(ahead, []).append(values[:, None])
        by_step = [np.concatenate(found[ahead], axis=1) for ahead in sorted(found)]
        means = [np.sqrt(np.square(values).mean(1)).tolist() for values in by_step]
        return Promised([values.shape[1] for values in by_step], *(list(part) for part in zip(*means, strict=True)))

    def _errors(self, promise: Promise, steps: NDArray[np.int64], seen: Tensor) -> NDArray[np.float64]:
        """The four differences at `steps [K]`, `[4, K]`, from features of what was seen `[T + 1, F]`."""
        images = _on_cpu(self._decoder.show(promise.codes[: len(steps)]))
        happened = {name: of_camera[steps] for name, of_camera in self.seen.items()}
        then = {name: of_camera[[promise.step]] for name, of_camera in self.seen.items()}
        return np.stack(
            [
                pixel_error(images, happened),
                self._distance(self._decoder.features(images), seen[steps]),
                pixel_error(then, happened),
                self._distance(seen[[promise.step]], seen[steps]),
            ]
        )

    def _distance(self, features: Tensor, others: Tensor) -> NDArray[np.float64]:
        return self._decoder.feature_distance(features, others).double().cpu().numpy()


def _on_cpu(images: Mapping[str, Tensor]) -> dict[str, NDArray[np.uint8]]:
    return {name: of_camera.cpu().numpy() for name, of_camera in images.items()}


def pixel_error(images: Images, others: Images) -> NDArray[np.float64]:
    """Root mean square difference `[B]` of the pixels of all cameras, of 255."""
    squared = [np.square(of_camera.astype(np.float64) - others[name]) for name, of_camera in images.items()]
    return np.sqrt(np.concatenate([each.reshape(len(each), -1) for each in squared], axis=1).mean(1))
