"""The kinds of masks by name. A new kind is one class, whose instances are functions of type `MaskFn`, and one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worldmodel.core.errors import UserError, choices_message
from worldmodel.core.options import from_config
from worldmodel.encoders.jepa.masks.base import MaskFn
from worldmodel.encoders.jepa.masks.blocks import MultiBlock, OfficialMultiBlock
from worldmodel.encoders.jepa.masks.scattered import RandomTokens, Tube
from worldmodel.encoders.jepa.masks.time import FutureBiased, WholeFrames

MASKS: Final[dict[str, type[Any]]] = {
    "multiblock": MultiBlock,
    "multiblock_official": OfficialMultiBlock,
    "tube": Tube,
    "random": RandomTokens,
    "temporal": WholeFrames,
    "future_biased": FutureBiased,
}


def read_mask(values: Mapping[str, Any]) -> MaskFn:
    """A mask from plain values, such as `{kind: tube, ratio: 0.9}`. The kind is `multiblock` if none is given.

    Raises:
        UserError: for an unknown kind, and for options that the kind does not have or cannot use.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"mask {values!r:.60}: expected its options, such as {{kind: tube, ratio: 0.9}}")
    options = {str(key): value for key, value in values.items()}
    kind = options.pop("kind", "multiblock")
    if kind not in MASKS:
        raise UserError(choices_message("kind of mask", str(kind)[:60], MASKS))
    made: MaskFn = from_config(MASKS[kind], options, f"mask {kind}")
    return made
