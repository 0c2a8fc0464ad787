"""The arrays of a store under each schema, and their description.

    schema 3  data/images/<camera>, data/action, data/proprio, data/state, and data/reward if rewards are recorded;
              meta/episode_ends, meta/episode_seed, meta/episode_record, meta/episode_instruction
    schema 2  one square camera without a name (`data/pixels`); neither rewards nor instructions
    schema 1  like 2, without checksums (`meta/episode_record`)

Stores of all schemas can be read, and all look alike to a reader. A *column* has one row per observation of an episode.
The only camera of an old store is called `camera`. Only stores of schema 3 are written.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from worldmodel.core.errors import UserError
from worldmodel.core.spec import EnvironmentSpec
from worldmodel.data.store.files import StoreError
from worldmodel.data.store.instruction import INSTRUCTION_BYTES
from worldmodel.data.store.integrity import description_checksum, record_type
from worldmodel.data.store.metadata import RowType

FORMAT: Final = "trajectory-store"
SCHEMA_VERSION: Final = 3
ENDS: Final = "meta/episode_ends"
SEEDS: Final = "meta/episode_seed"
RECORDS: Final = "meta/episode_record"
INSTRUCTIONS: Final = "meta/episode_instruction"
# The checksum of all records. It is an attribute of `meta/episode_ends`, so that one rename changes both.
CHAIN: Final = "records"
REWARD: Final = "reward"
INSTRUCTION: Final = "instruction"  # has a digest, like a column
HOW_TO_MAKE_ONE: Final = (
    "make one with `python -m envs.collect`, `worldmodel.data.Recorder` or `python -m worldmodel.data import`"
)
NOT_A_STORE: Final = "{path} is not a trajectory store: " + HOW_TO_MAKE_ONE
_IMAGES = "images/"
_FIRST_WITH_CHECKSUMS, _FIRST_WITH_CAMERAS = 2, 3


def image_column(camera: str) -> str:
    """The column of a camera's images, `images/<camera>`."""
    return f"{_IMAGES}{camera}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The arrays of one store.

    Attributes:
        spec: specification of the recorded robot.
        has_reward: whether there is a column `reward`.
        version: version of the schema.
    """

    spec: EnvironmentSpec
    has_reward: bool = False
    version: int = SCHEMA_VERSION

    @cached_property
    def row_types(self) -> dict[str, RowType]:
        """Element type and shape of one row of each column, in the order of the columns' digests."""
        spec = self.spec
        types = {image_column(c.name): RowType(np.dtype(np.uint8), c.shape) for c in spec.cameras}
        types["action"] = RowType(np.dtype(np.float32), (spec.action.size,))
        types["proprio"] = RowType(np.dtype(np.float32), (spec.proprio_size,))
        types["state"] = RowType(np.dtype(np.float64), (spec.state_size,))
        return types | ({REWARD: RowType(np.dtype(np.float32), ())} if self.has_reward else {})

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.row_types)

    @property
    def digested(self) -> tuple[str, ...]:
        """Names of everything that an episode's record has a digest of, in that order."""
        return (*self.columns, INSTRUCTION) if self.has_instructions else self.columns

    @property
    def has_checksums(self) -> bool:
        """Whether every episode has a record."""
        return self.version >= _FIRST_WITH_CHECKSUMS

    @property
    def has_instructions(self) -> bool:
        """Whether every episode may have an instruction."""
        return self.version >= _FIRST_WITH_CAMERAS

    def array(self, column: str) -> str:
        """The array that holds a column."""
        is_nameless = self.version < _FIRST_WITH_CAMERAS and column.startswith(_IMAGES)
        return "data/pixels" if is_nameless else f"data/{column}"

    @cached_property
    def array_types(self) -> dict[str, RowType]:
        """Element type and shape of one row, by array."""
        types = {self.array(column): row for column, row in self.row_types.items()}
        types |= {name: RowType(np.dtype(np.int64), ()) for name in (ENDS, SEEDS)}
        if self.has_checksums:
            types[RECORDS] = RowType(np.dtype(np.uint8), (record_type(len(self.digested)).itemsize,))
        if self.has_instructions:
            types[INSTRUCTIONS] = RowType(np.dtype(np.uint8), (INSTRUCTION_BYTES,))
        return types

    @classmethod
    def described(cls, attributes: dict[str, Any], path: str | Path, hint: str = "") -> Self:
        """The layout that the description of the store at `path` gives.

        Raises:
            StoreError: when the description cannot be trusted or understood, or makes no sense.
        """
        version = check_schema(attributes, path, hint)
        environment = attribute(attributes, "environment", path)
        try:
            spec = EnvironmentSpec.from_dict(environment)
        except UserError as error:
            raise StoreError(f"{path} is damaged: {error}") from error
        if version < _FIRST_WITH_CAMERAS:
            if "image_size" not in environment:
                raise StoreError(f"{path} is damaged: a store of schema {version} has an image_size, and no cameras")
            return cls(spec, False, version)
        columns = attributes.get("columns")
        for layout in (cls(spec, False, version), cls(spec, True, version)):
            if columns == list(layout.columns):
                return layout
        raise StoreError(f"{path} is damaged: its columns are not those of its environment, and reward")


def check_schema(attributes: dict[str, Any], path: str | Path, hint: str = "") -> int:
    """The schema version. Raises StoreError for a description that cannot be trusted or understood."""
    if attributes.get("format") != FORMAT:
        raise StoreError(NOT_A_STORE.format(path=path))
    version = attributes.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise StoreError(f"{path} has schema version {version!r}: expected 1 to {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this program reads up to {SCHEMA_VERSION}: update the program"
        )
    if not is_as_written(attributes):
        raise StoreError(f"{path} is damaged: its description in zarr.json is not what was written there{hint}")
    return version


def is_as_written(attributes: dict[str, Any]) -> bool:
    """Whether a store's description has the checksum that was written with it."""
    if "checksum" not in attributes:
        return bool(attributes.get("schema_version") == 1)  # the only schema without a checksum
    return bool(attributes["checksum"] == description_checksum(attributes))


def attribute(attributes: dict[str, Any], name: str, path: str | Path) -> dict[str, Any]:
    """The values called `name` in a store's description. Raises StoreError if there are none."""
    value = attributes.get(name)
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged: it does not say its {name}")
    return value
