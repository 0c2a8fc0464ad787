"""The options of every command that runs the episodes of a manifest with a planner."""

from __future__ import annotations

import dataclasses
from typing import Final

from planning.evaluation.manifest import MOST_BUDGET

MOST_ENVS: Final = 256
_MIB_PER_ENV: Final = 36  # memory of one environment, measured on `push` at 64 x 64


@dataclasses.dataclass(frozen=True)
class EpisodesConfig:
    """The options that these commands have in common. The files in `configs/` explain each."""

    checkpoint: str | None
    command: tuple[float, ...] | None
    budget: int
    batch: int
    seed: int
    device: str
    precision: str
    compile: str | bool
    out: str | None

    def __post_init__(self) -> None:
        if min(self.budget, self.batch) < 1 or self.seed < 0:
            raise ValueError(
                f"budget={self.budget} batch={self.batch} seed={self.seed}: at least 1, 1 and 0 are accepted"
            )
        if self.batch > MOST_ENVS:
            raise ValueError(
                f"batch={self.batch} environments take some {self.batch * _MIB_PER_ENV / 1024:,.0f} GiB: at most "
                f"{MOST_ENVS} are accepted"
            )
        if self.budget > MOST_BUDGET:
            raise ValueError(f"budget={self.budget}: at most {MOST_BUDGET:,} control steps are accepted")
