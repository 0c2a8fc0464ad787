"""A recording of the toy world."""

from __future__ import annotations

import pytest

from tests.worldmodel.toy import write_store
from worldmodel.data import TrajectoryStore


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """24 episodes of 12 actions in the toy world."""
    return write_store(tmp_path_factory.mktemp("toy") / "data.zarr")
