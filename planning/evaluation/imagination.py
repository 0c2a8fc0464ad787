"""Imagined images of plans beside the observed images of a run.

Shapes: `T` recorded control steps, `H` control steps of a plan, `D` numbers of a code, `F` numbers of the features of
all cameras, `H', W'` height and width of a camera's images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from planning.decision import Decision
from planning.evaluation.rollout import Policy
from planning.evaluation.task import Task
from planning.types import Decoder
from worldmodel.core.observation import Observation

Images = Mapping[str, NDArray[np.uint8]]
_MOST_STEPS: Final = 1000  # recorded control steps, which bounds memory
_MOST_COMPARED: Final = 50  # plans, spread over the run, which bounds the time of the comparison


@dataclasses.dataclass(frozen=True)
class Promise:
    """The imagined future of one plan.

    Attributes:
        step: control step at which the plan was made, from 0 on.
        codes: codes `[H, D]` of the imagined latents after each action of the plan.
    """

    step: int
    codes: Tensor

    def covers(self, step: int) -> bool:
        """Whether control step `step` is among the imagined ones."""
        return self.step < step <= self.step + len(self.codes)


class Watched(Policy):
    """Records the observations and plans of a policy for one environment, for the first 1,000 control steps.

    Attributes:
        decoder: the decoder of the policy's world model.
        seen: observations `[1, ...]` at every control step, `T + 1` of them.
        promises: the imagined futures of all plans, in order.
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
            # `decision.imagined` would keep the imagined latents of all control steps in memory.
            (imagined,) = decision.imagine() if decision.planned else (None,)
            if imagined is not None:
                self.promises.append(Promise(step, self.decoder.code(imagined)[0, 0].cpu()))
        return decision


@dataclasses.dataclass(frozen=True)
class Promised:
    """Differences between imagined and observed images, by control steps ahead, from 0 on.

    Step 0 compares an observed image with its own decoding, which is the decoder's part in all other differences. If a
    plan is replaced before its end, the actions after that are not those of the plan, and this also counts.

    Attributes:
        pairs: number of compared images.
        pixels: root mean square difference of the pixels, of 255.
        features: root mean square difference of the frozen encoder's features.
        pixels_unchanged: difference of the pixels if the plan had predicted that nothing changes.
        features_unchanged: difference of the features if the plan had predicted that nothing changes.
    """

    pairs: list[int]
    pixels: list[float]
    features: list[float]
    pixels_unchanged: list[float]
    features_unchanged: list[float]


class Comparison:
    """Compares the imagined images of a finished run with the observed ones.

    Args:
        watched: the recorded run.

    Attributes:
        seen: observed images by camera, uint8 `[T + 1, H', W', 3]`.
    """

    def __init__(self, watched: Watched) -> None:
        self._decoder, self._promises = watched.decoder, watched.promises
        cameras = watched.seen[0].images
        self.seen = {name: np.concatenate([one.images[name] for one in watched.seen]) for name in cameras}
        proprio = np.concatenate([one.proprio for one in watched.seen])
        self._now = _on_cpu(self._decoder.reconstruct(Observation(self.seen, proprio)))

    def __len__(self) -> int:
        """Number of observed images of each camera, `T + 1`."""
        return len(next(iter(self.seen.values())))

    def shown(self, step: int, ahead: int) -> tuple[int, Images] | None:
        """How many steps before `step` an image of it was imagined, and the image `[H', W', 3]` by camera.

        It is the image of the plan that was made as nearly as possible `ahead` steps before. At step 0, it is the
        decoding of the observed image, with 0 steps. It is None if there is no such plan.
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
        """Differences by control steps ahead."""
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
        """The four differences at control steps `steps [K]`, `[4, K]`. `seen [T + 1, F]` are the observed features."""
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
