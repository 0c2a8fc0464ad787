"""Which tokens of a clip are hidden from the context encoder, and which of them are predicted. Kinds have names."""

from worldmodel.encoders.jepa.masks.base import Mask, MaskFn
from worldmodel.encoders.jepa.masks.blocks import LONG_RANGE, SHORT_RANGE, MultiBlock, OfficialMultiBlock
from worldmodel.encoders.jepa.masks.registry import MASKS, read_mask
from worldmodel.encoders.jepa.masks.scattered import RandomTokens, Tube
from worldmodel.encoders.jepa.masks.time import FutureBiased, WholeFrames

__all__ = [
    "LONG_RANGE",
    "MASKS",
    "SHORT_RANGE",
    "FutureBiased",
    "Mask",
    "MaskFn",
    "MultiBlock",
    "OfficialMultiBlock",
    "RandomTokens",
    "Tube",
    "WholeFrames",
    "read_mask",
]
