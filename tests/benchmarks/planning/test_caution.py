"""Forms of caution on a model whose doubts are known, and how candidates are described."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.planning.caution import FORMS, Candidates, interval, read
from worldmodel.core.errors import UserError

# Two candidates of three steps. The second comes nearer, and the model knows little of it.
DISTANCE = torch.tensor([[[1.0, 0.8, 0.6], [1.0, 0.7, 0.4]]])
BOUND = torch.tensor([[[0.1, 0.1, 0.1], [0.1, 0.5, 0.9]]])
CONFIDENCE = torch.tensor([[[1.0, 1.0, 1.0], [1.0, 0.5, 0.0]]])
LATENTS = SimpleNamespace(strangeness=torch.tensor([[[1.0, 1.0, 1.0], [1.0, 20.0, 20.0]]]))


class Doubting:
    def distance(self, latents, goal):
        return DISTANCE

    def error_bound(self, latents, level):
        return BOUND

    def confidence(self, latents):
        return CONFIDENCE


def best(form: str) -> int:
    return int(FORMS[form](Doubting(), LATENTS, None).argmin())


def test_doubt_decides_only_where_it_counts() -> None:
    assert [best(form) for form in ("plain", "discounted")] == [1, 1]
    assert [best(form) for form in ("caution_0.5", "caution_1", "caution_2", "excess_1", "strange_0.1")] == [0] * 5


def test_fading_confidence_counts_only_what_comes_before_the_doubt() -> None:
    cost = FORMS["fading"](Doubting(), LATENTS, None)
    assert cost[0].tolist() == pytest.approx([0.8, (1.0 + 0.5 * 0.7) / 1.5])


def test_the_rank_correlation_of_bounds_and_errors() -> None:
    up, down = np.array([1.0, 2.0, 9.0]), np.array([3.0, 2.0, 1.0])
    assert Candidates(up, up**2, up).correlation == pytest.approx(1)
    assert Candidates(up, down, up).correlation == pytest.approx(-1)


def test_an_interval_holds_its_mean() -> None:
    assert interval(np.full(9, 0.25)) == "+0.250 (+0.250 to +0.250)"


def test_options_are_ours_or_those_of_evaluate() -> None:
    forms, count, others = read(["forms=[caution_1]", "candidates=8", "manifest.seed=3"])
    assert (forms, count, others) == (["plain", "caution_1"], 8, ["manifest.seed=3"])
    for wrong, message in (
        (["forms=[bold]"], "unknown form 'bold'"),
        (["candidates=1"], "candidates=1 cannot be used"),
    ):
        with pytest.raises(UserError, match=message):
            read(wrong)
