"""Two ranks compute what one process computes: losses, gradients, averages of weights, and what comes after a stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worldmodel.ranks import finish, start_ranks
from tests.worldmodel.training.divided import STEPS, STOP, VARIANTS, run, run_on_ranks
from worldmodel.core.errors import UserError
from worldmodel.core.ranks import Rank
from worldmodel.training.trainer import TrainingTask

RESUMED = ("regularised", "sharded")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every variant in one process (`one`) and on two ranks (`ranks`), and some that change in the middle."""
    folder = tmp_path_factory.mktemp("runs")
    for name in RESUMED:
        run(name, folder / "from one" / name, stop_at=STOP)
    ranks = start_ranks(2, run_on_ranks, folder)
    for name in VARIANTS:
        run(name, folder / "one" / name)
    assert finish(ranks) == [0, 0]
    for name in RESUMED:
        run(name, folder / "from ranks" / name)
    return folder


def steps_of(folder: Path, rank: int = 0) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = torch.load(folder / f"steps.{rank}.pt", weights_only=True)
    return found


def farthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_and_gradients_are_those_of_the_whole_batch(runs: Path, name: str) -> None:
    one, first, second = steps_of(runs / "one" / name), *(steps_of(runs / "ranks" / name, rank) for rank in (0, 1))
    (begin, *_) = one
    assert begin == 0 and len(one) == STEPS
    # In the first step all weights are the same. Later ones differ by what rounding did to them.
    assert (first[0]["loss"] + second[0]["loss"]) / 2 == pytest.approx(one[0]["loss"], abs=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in one[0]["gradients"].values())
    assert largest > 1e-3
    assert farthest(one[0]["gradients"], first[0]["gradients"]) < 1e-6 * max(1, largest)
    assert farthest(first[STEPS - 1]["weights"], second[STEPS - 1]["weights"]) == 0, "ranks never drift apart"
    for step in range(STEPS):
        assert (first[step]["loss"] + second[step]["loss"]) / 2 == pytest.approx(one[step]["loss"], abs=1e-5)


@pytest.mark.parametrize("name", ["regularised", "whitened", "dropped", "factorised", "sharded"])
def test_the_target_encoder_follows_alike(runs: Path, name: str) -> None:
    one, ranks = steps_of(runs / "one" / name), steps_of(runs / "ranks" / name)
    # The bias of keys has no influence. Its gradient is what rounding leaves of 0, and AdamW magnifies it.
    followed = [n for n in one[0]["weights"] if n.startswith("target.") and not n.endswith("qkv.bias")]
    for step, tolerance in ((0, 1e-6), (STEPS - 1, 1e-5)):
        averages = ({n: each[step]["weights"][n] for n in followed} for each in (one, ranks))
        assert farthest(*averages) < tolerance


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("resumed", ["from ranks", "from one"])
def test_a_training_goes_on_with_another_number_of_ranks(runs: Path, name: str, resumed: str) -> None:
    whole, rest = steps_of(runs / "one" / name), [steps_of(runs / resumed / name)]
    if resumed == "from one":
        rest.append(steps_of(runs / resumed / name, 1))
    assert all(list(each) == list(range(STOP, STEPS)) for each in rest)
    for step in range(STOP, STEPS):
        loss = sum(each[step]["loss"] for each in rest) / len(rest)
        assert loss == pytest.approx(whole[step]["loss"], abs=1e-5)
    logs = [(runs / place / name / "log.jsonl").read_text().count('"loss"') for place in ("one", resumed)]
    assert logs == [STEPS, STEPS]


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_finished_is_whole_and_has_the_same_form(runs: Path, name: str) -> None:
    one, ranks = (torch.load(runs / place / name / "finished.pt", weights_only=True) for place in ("one", "ranks"))
    assert {n: (w.shape, w.dtype) for n, w in one.items()} == {n: (w.shape, w.dtype) for n, w in ranks.items()}
    weights = steps_of(runs / "ranks" / name)[STEPS - 1]["weights"]
    assert farthest(weights, {n: ranks[n] for n in weights}) == 0


def test_a_task_that_cannot_be_divided_says_so() -> None:
    task: Any = TrainingTask
    with pytest.raises(UserError, match="2 ranks: expected 1, since the batches of this training cannot be divided"):
        task.share(object(), Rank(0, 2))
    with pytest.raises(UserError, match="parallel 'fsdp': expected ddp"):
        task.shard(object(), None)
