"""How often the impossible clip of a pair is the more surprising one.

Shapes: `F` windows of a clip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldmodel.core.statistics import sign_test_p, wilson_interval
from worldmodel.surprise.clips import CONTROLS, MODEL
from worldmodel.surprise.labels import PairLabel

# How the surprises of a clip's windows become one number.
SUMMARIES: Final[Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "mean": lambda errors: errors.mean(-1),
    "max": lambda errors: errors.max(-1),
}
# Surprises that differ by less are equal, as where the largest one lies before the break.
_SAME: Final = 1e-6
ALL: Final = "all"


@dataclasses.dataclass(frozen=True)
class Surprises:
    """The surprise of one pair.

    Attributes:
        label: the pair.
        values: (possible, impossible) by predictor and then by summary.
    """

    label: PairLabel
    values: Mapping[str, Mapping[str, tuple[float, float]]]

    @classmethod
    def of(cls, label: PairLabel, errors: Mapping[str, NDArray[np.float64]]) -> Surprises:
        """Summarise the errors `[2, F]` of each predictor."""
        values = {
            name: {summary: _both(summarise(windows)) for summary, summarise in SUMMARIES.items()}
            for name, windows in errors.items()
        }
        return cls(label, values)

    def correct(self, name: str, summary: str) -> float:
        """1 if the impossible clip is the more surprising one, 0 if it is the other one, 0.5 if they are the same."""
        return _larger(*self.values[name][summary])


def _larger(possible: float, impossible: float) -> float:
    """1 if the second is larger, 0 if the first is, 0.5 if they are the same."""
    if np.isclose(possible, impossible, rtol=_SAME, atol=0):
        return 0.5
    return float(impossible > possible)


def _both(values: NDArray[np.float64]) -> tuple[float, float]:
    possible, impossible = values.tolist()
    return possible, impossible


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How often the impossible is the more surprising.

    The pairs of a scene share frames, so a scene counts as one trial in intervals and tests.

    Attributes:
        rate: the share. Equal surprises count half.
        low, high: 95 % interval.
        p_chance: p-value of a sign test against one half.
        controls: rate of every control.
        p_controls: p-values of sign tests against them.
    """

    rate: float
    low: float
    high: float
    p_chance: float
    controls: Mapping[str, float]
    p_controls: Mapping[str, float]

    @classmethod
    def of(cls, rates: Mapping[str, float], by_scene: Mapping[str, NDArray[np.float64]]) -> Accuracy:
        """The accuracy from the rate of every predictor, and its share in each scene."""
        model = by_scene[MODEL]
        return cls(
            rates[MODEL],
            *wilson_interval(rates[MODEL] * len(model), len(model)),
            _sign_test(model - 0.5),
            {name: rates[name] for name in CONTROLS},
            {name: _sign_test(model - by_scene[name]) for name in CONTROLS},
        )

    @classmethod
    def of_pairs(cls, surprises: Sequence[Surprises], summary: str) -> Accuracy:
        """The share of pairs."""
        names = (MODEL, *CONTROLS)
        rates = {name: float(np.mean([each.correct(name, summary) for each in surprises])) for name in names}
        by_scene = {
            name: np.array([np.mean([each.correct(name, summary) for each in scene]) for scene in _scenes(surprises)])
            for name in names
        }
        return cls.of(rates, by_scene)

    @classmethod
    def of_scenes(cls, surprises: Sequence[Surprises]) -> Accuracy:
        """The share of scenes whose impossible clips together surprise more than the possible ones.

        It is the relative accuracy of IntPhys. What makes an ending surprising in itself cancels, since both sums have
        each ending once.
        """
        by_scene = {
            name: np.array([_larger(*_sums(scene, name)) for scene in _scenes(surprises)])
            for name in (MODEL, *CONTROLS)
        }
        return cls.of({name: float(shares.mean()) for name, shares in by_scene.items()}, by_scene)


def _sign_test(differences: NDArray[np.float64]) -> float:
    return sign_test_p(int((differences > 0).sum()), int((differences < 0).sum()))


def _sums(scene: Sequence[Surprises], name: str) -> tuple[float, float]:
    """Sums of the surprise of the possible and of the impossible clips of a scene, by the mean over windows."""
    possible, impossible = zip(*(each.values[name]["mean"] for each in scene), strict=True)
    return sum(possible), sum(impossible)


@dataclasses.dataclass(frozen=True)
class Row:
    """Pairs that are judged together.

    Attributes:
        property: what physics is about, or `all`.
        variant: how it is shown, or the violation.
        pairs: number of pairs.
        scenes: number of scenes.
        accuracy: over pairs, by summary.
        by_scene: over scenes.
    """

    property: str
    variant: str
    pairs: int
    scenes: int
    accuracy: Mapping[str, Accuracy]
    by_scene: Accuracy


def judge(surprises: Sequence[Surprises], by: str) -> list[Row]:
    """A row for each property and `by`, which is a field of the labels, and one for all pairs."""
    groups: dict[tuple[str, str], list[Surprises]] = {}
    for each in surprises:
        groups.setdefault((each.label.property, getattr(each.label, by)), []).append(each)
    rows = [_row(*names, group) for names, group in groups.items()]
    return [*rows, _row(ALL, "", surprises)]


def _row(property: str, variant: str, surprises: Sequence[Surprises]) -> Row:
    accuracy = {summary: Accuracy.of_pairs(surprises, summary) for summary in SUMMARIES}
    by_scene = Accuracy.of_scenes(surprises)
    return Row(property, variant, len(surprises), len(_scenes(surprises)), accuracy, by_scene)


def _scenes(surprises: Iterable[Surprises]) -> list[list[Surprises]]:
    """The pairs of every scene."""
    scenes: dict[tuple[str, str, int], list[Surprises]] = {}
    for each in surprises:
        scenes.setdefault((each.label.property, each.label.variant, each.label.scene), []).append(each)
    return list(scenes.values())
