"""Tuning of the encoder together with what is trained on top of it.

Whatever is trained has targets of the frozen encoder. A target that moves with the tuned encoder could become constant,
and the loss zero. So a training reads images with the tuned encoder, and compares with features that the frozen one
computed before. A family in which this is impossible has no `tuned_stages` in `worldmodel.models.registry`.
"""

from __future__ import annotations

import dataclasses
import re

from torch import nn

from worldmodel.core.errors import UserError
from worldmodel.encoders.base import Encoder
from worldmodel.encoders.vit import VisionTransformer

NONE, ALL = "none", "all"


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """Which part of the encoder learns.

    Attributes:
        encoder: `none` keeps the encoder frozen, `last:N` tunes its last N blocks and its last norm, and `all` tunes
            everything.
        rate: learning rate of the encoder as a fraction of that of what is trained on top.
    """

    encoder: str = NONE
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.encoder not in (NONE, ALL) and not re.fullmatch(r"last:[1-9]\d{0,3}", self.encoder):
            raise ValueError(f"encoder '{self.encoder}' is unknown: choose from {NONE}, last:N and {ALL}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate {self.rate}: expected a number above 0 and at most 1")

    @property
    def is_on(self) -> bool:
        """Whether anything of the encoder learns."""
        return self.encoder != NONE

    def require_fit(self, encoder: Encoder) -> None:
        """Raises UserError for an encoder that cannot be tuned in this way."""
        if not self.is_on:
            return
        if not isinstance(encoder, VisionTransformer):
            raise UserError(
                f"tuning.encoder={self.encoder} with an encoder of kind {encoder.config.kind}: expected a vision "
                f"transformer of this project, or tuning.encoder={NONE}"
            )
        if self.encoder != ALL and self._last > len(encoder.blocks):
            raise UserError(f"tuning.encoder={self.encoder}: the encoder has {len(encoder.blocks)} blocks")

    def unfreeze(self, encoder: Encoder) -> list[nn.Parameter]:
        """Let the chosen part of `encoder` learn. Returns its parameters. Raises UserError as `require_fit`."""
        self.require_fit(encoder)
        encoder.requires_grad_(False)
        if not self.is_on:
            return []
        assert isinstance(encoder, VisionTransformer)
        parts = [encoder] if self.encoder == ALL else [*encoder.blocks[-self._last :], encoder.norm]
        for part in parts:
            part.requires_grad_(True)
        return [parameter for parameter in encoder.parameters() if parameter.requires_grad]

    @property
    def _last(self) -> int:
        return int(self.encoder.partition(":")[2])
