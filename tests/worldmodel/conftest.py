"""One thread for every test: at toy size more of them only wait for each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.worldmodel.toy import write_store
from worldmodel.data import TrajectoryStore


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """24 episodes of 12 actions in the toy world."""
    return write_store(tmp_path_factory.mktemp("toy") / "data.zarr")
