"""A module is made only as long as it asks for no more than its weights have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from worldmodel.core.weights import TooLargeError, make_within, open_weights

HUGE = 2**40  # numbers: four tebibytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


class Holding(nn.Module):
    """A module with one buffer that a function makes."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.register_buffer("held", make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(HUGE),
        lambda: torch.zeros((2**20, 2**20)),
        lambda: torch.ones(2**20, 2**20),
        lambda: torch.rand(size=(HUGE,)),
        lambda: torch.randn([HUGE], generator=torch.Generator()),
        lambda: torch.full((HUGE,), 0.5),
        lambda: torch.randint(3, (HUGE,)),
        lambda: torch.randperm(HUGE),
        lambda: torch.arange(HUGE),
        lambda: torch.arange(1, HUGE),
        lambda: torch.arange(0, 1, 1 / HUGE),
        lambda: torch.linspace(0, 1, HUGE),
        lambda: torch.linspace(0, 1, steps=HUGE),
        lambda: torch.eye(2**20),
        lambda: torch.eye(2**20, 2**20),
        lambda: nn.Linear(2**20, 2**20).weight,
    ],
)
def test_what_would_be_too_large_is_never_made(path: Path, make: Callable[[], Tensor]) -> None:
    with open_weights(path) as weights, pytest.raises(TooLargeError, match="larger than its weights can be for"):
        make_within(lambda: Holding(make), weights)


def test_many_small_parts_are_too_many(path: Path) -> None:
    made: list[int] = []

    def make() -> nn.Module:
        return nn.Sequential(*(made.append(i) or nn.Linear(1, 1) for i in range(10**9)))  # type: ignore[func-returns-value]

    with open_weights(path) as weights, pytest.raises(TooLargeError, match="parts are more than the 2 tensors can be"):
        make_within(make, weights)
    assert len(made) < 1000


@pytest.mark.parametrize("size", [2**62, 10**30, -1])
def test_sizes_that_torch_does_not_take_are_errors_of_values(path: Path, size: int) -> None:
    with open_weights(path) as weights, pytest.raises((ValueError, TypeError)):
        make_within(lambda: nn.Linear(size, 5), weights)


def test_the_limits_end_with_the_making(path: Path) -> None:
    with open_weights(path) as weights:
        assert make_within(lambda: nn.Linear(4, 3), weights).weight.shape == (3, 4)
        with pytest.raises(TooLargeError):
            make_within(lambda: nn.ModuleList(nn.Linear(1, 1) for _ in range(10**6)), weights)
    assert len(nn.ModuleList(nn.Linear(1, 1) for _ in range(2000))) == 2000
    assert len(torch.zeros(2**23)) == 2**23
