"""Promises in the task's units: what a network reads out of latents, and how plans keep them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from planning.evaluation.promises import Known, Promise, Readout, in_units
from planning.evaluation.reality import RealityCheck
from tests.planning.evaluation.test_reality import GOALS, STARTS, STRATEGY
from tests.planning.point_mass import PointEnv, PointLatent, PointModel

KNOWN = [np.array([x, y]) for x in np.linspace(-1, 1, 12) for y in np.linspace(-1, 1, 12)]


def known(groups: np.ndarray | None = None, judged: np.ndarray | None = None) -> Known:
    """KNOWN, each in a group of its own unless `groups` says otherwise."""
    groups = np.arange(len(KNOWN)) if groups is None else groups
    return Known(KNOWN, groups, np.ones(len(KNOWN), bool) if judged is None else judged)


class Decoded(PointModel):
    """Its latents can be read, but only by a network that learns to."""

    def decodable(self, latents: PointLatent) -> Tensor:
        return torch.cat([latents.position.tanh(), latents.position.square()], dim=-1)


class Dreamer(Decoded):
    def imagine(self, latent: PointLatent, actions: Tensor) -> PointLatent:
        return super().imagine(latent, 4 * actions)


@dataclasses.dataclass
class Compared:
    codes: tuple[Tensor, Tensor] | None
    states: tuple[np.ndarray, np.ndarray]


def promise(model: PointModel) -> Promise:
    reality = RealityCheck(PointEnv(), model, STRATEGY, torch.device("cpu")).measure(STARTS, GOALS, known())
    assert reality is not None
    (found,) = reality.promises
    assert str(found) in str(reality)
    return found


def test_an_exact_model_moves_what_it_promises_to_move() -> None:
    found = promise(Decoded(reached_distance=0.01))
    assert (found.metric, found.unit, found.plans) == ("position", "m", len(STARTS))
    assert found.least == pytest.approx(0.2 / 3) and found.reading_error < 0.02
    assert found.promised == pytest.approx(0.3, abs=0.04) and found.came == pytest.approx(0.3, abs=0.04)
    assert found.kept == 1


def test_a_model_that_dreams_promises_more_than_comes() -> None:
    found = promise(Dreamer(reached_distance=0.01))
    assert found.promised == pytest.approx(0.3, abs=0.04) and found.came < 0.15


def test_what_is_promised_and_does_not_come_is_counted() -> None:
    model, moved = Decoded(), np.array([0.3, 0.0])
    places = torch.from_numpy(np.array(KNOWN)).float()
    codes = model.decodable(PointLatent(places, torch.ones(144), places))

    def plan(promised: np.ndarray, came: np.ndarray) -> Compared:
        ends = torch.from_numpy(np.stack([np.zeros(2), promised])).float()
        first, last = model.decodable(PointLatent(ends, torch.ones(2), ends))
        return Compared((first, last), (np.zeros(2), came))

    plans = [plan(moved, moved), plan(moved, 0 * moved), plan(0 * moved, moved), Compared(None, (moved, moved))]
    (found,) = in_units(PointEnv(), plans, codes, known())
    assert (found.plans, found.kept) == (2, 0.5) and found.came == pytest.approx(0.15)
    (found,) = in_units(PointEnv(), plans[2:3], codes, known())
    assert found.plans == 0 and found.kept is None and "no plan promises to move position by 0.067 m" in str(found)


def test_what_cannot_be_read_is_said() -> None:
    noise = torch.randn(144, 3, generator=torch.Generator().manual_seed(0))
    plans = [Compared((noise[0], noise[1]), (KNOWN[0], KNOWN[1]))]
    (found,) = in_units(PointEnv(), plans, noise, known())
    assert not found.can_be_read and found.plans == 0 and found.promised is None
    assert "what plans promise of position cannot be read" in str(found) and "up to 0.033 would do" in str(found)


def test_the_seed_alone_decides() -> None:
    codes = torch.from_numpy(np.array(KNOWN)).float()
    first, again, other = (Readout(codes, known(), seed) for seed in (0, 0, 1))
    torch.rand(3)
    assert np.array_equal(first.read(codes), again.read(codes)) and np.array_equal(first.held_out, again.held_out)
    assert not np.array_equal(first.read(codes), other.read(codes))


def test_models_without_a_decodable_part_have_none() -> None:
    check = RealityCheck(PointEnv(), PointModel(reached_distance=0.01), STRATEGY, torch.device("cpu"))
    told: list[tuple[str, int, int]] = []

    @contextmanager
    def counting(title: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: told.append((title, done, total))

    reality = check.measure(STARTS, GOALS, known(), counting)
    assert reality is not None and reality.promises == () and told[-1] == ("check plans", 6, 6)
    check = RealityCheck(PointEnv(), Decoded(reached_distance=0.01), STRATEGY, torch.device("cpu"))
    check.measure(STARTS, GOALS, known(), counting)
    assert told[-1] == ("encode states", 144, 144)


def test_whole_groups_are_held_out_and_only_some_states_are_judged() -> None:
    codes, groups = torch.from_numpy(np.array(KNOWN)).float(), np.repeat(np.arange(12), 12)
    held_out = Readout(codes, known(groups), seed=0).held_out
    assert len(held_out) == 24 and len({number // 12 for number in held_out}) == 2
    judged = np.arange(len(KNOWN)) % 3 == 0
    assert set(Readout(codes, known(groups, judged), seed=0).held_out) == {n for n in held_out if judged[n]}
    assert len(Readout(codes, known(np.zeros(len(KNOWN), np.int64)), seed=0).held_out) == len(KNOWN)
