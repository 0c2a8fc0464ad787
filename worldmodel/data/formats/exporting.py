"""The user's options of an export."""

from __future__ import annotations

import dataclasses
from typing import Final

from worldmodel.core.errors import UserError, choices_message

IMAGES: Final = ("video", "png")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """How a store is exported.

    Attributes:
        images: `video` or `png`.
        crf: the rate factor of videos, from 0 (largest files) to 51.
        task: text for episodes without an instruction, which says what the robot does. The default is the
            environment's name.
    """

    images: str = "video"
    crf: int = 18
    task: str | None = None

    def __post_init__(self) -> None:
        if self.images not in IMAGES:
            raise UserError(choices_message("images", self.images, IMAGES))
        if not 0 <= self.crf <= 51:
            raise UserError(f"--crf {self.crf}: expected 0 to 51")
