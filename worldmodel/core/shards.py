"""The parts of a work that many machines share, such as the episodes of a recording: `shard=3/64`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Final

from worldmodel.core.errors import UserError

MOST_SHARDS: Final = 100_000  # a larger number is a typing error


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` parts of nearly the same size.

    Attributes:
        number: its number, from 1, as schedulers count the jobs of an array from 1 on.
        count: number of parts.
    """

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """The shard that `text`, such as `3/64`, names. Raises UserError for any other text."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        shard = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= shard.number <= shard.count <= MOST_SHARDS:
            raise UserError(f"shard '{text}': expected a number and a count, from 1/64 to 64/64 for 64 shards")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, items: int) -> range:
        """The items of this shard. The shards of one count, one after the other, have every item once, in order."""
        return range((self.number - 1) * items // self.count, self.number * items // self.count)

    def beside(self, path: Path) -> Path:
        """The file or folder of this shard beside that of the whole: `data.zarr` → `data.003-of-064.zarr`.

        Names in their order are shards in their order.
        """
        digits = max(3, len(str(self.count)))
        return path.with_name(f"{path.stem}.{self.number:0{digits}}-of-{self.count:0{digits}}{path.suffix}")


def files_of_shards(path: Path) -> list[Path]:
    """Files that shards of any count have written beside that of the whole, in the order of their names."""
    pattern = re.compile(rf"{re.escape(path.stem)}\.\d+-of-\d+{re.escape(path.suffix)}")
    found = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(other for other in found if pattern.fullmatch(other.name))
