"""The latent state of the tokens family, and its memory of past control steps.

Shapes: `...` leading dimensions, `B` robots; `N` tokens of a frame over all cameras, `C` numbers in each; `P`
proprioception, `A` action; `M` control steps that are remembered.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from worldmodel.core.tensor_record import TensorRecord


@dataclasses.dataclass(frozen=True)
class Past(TensorRecord):
    """The frames of the last M control steps, without the present one; the latest is the last. Standardised.

    Attributes:
        tokens: `[B, M, N, C]`.
        proprio: `[B, M, P]`.
        actions: the one that was taken at each of them, `[B, M, A]`.
        seen: how many of them there are, `[B]`; those before have never been.
    """

    tokens: Tensor
    proprio: Tensor
    actions: Tensor
    seen: Tensor

    @classmethod
    def none(cls, tokens: Tensor, proprio: Tensor, actions: int, length: int) -> Past:
        """For an episode that begins with `tokens [B, N, C]` and `proprio [B, P]`; A is `actions`, M is `length`."""
        rows = len(tokens)
        return cls(
            tokens.new_zeros(rows, length, *tokens.shape[1:]),
            proprio.new_zeros(rows, length, *proprio.shape[1:]),
            proprio.new_zeros(rows, length, actions),
            torch.zeros(rows, dtype=torch.long, device=tokens.device),
        )

    def followed_by(self, tokens: Tensor, proprio: Tensor, action: Tensor) -> Past:
        """One step later, after `tokens [B, N, C]` and `proprio [B, P]`, at which `action [B, A]` was taken."""
        length = self.tokens.shape[1]

        def append(past: Tensor, latest: Tensor) -> Tensor:
            return torch.cat([past, latest[:, None]], dim=1)[:, 1:]

        return Past(
            append(self.tokens, tokens),
            append(self.proprio, proprio),
            append(self.actions, action),
            (self.seen + 1).clamp(max=length),
        )


@dataclasses.dataclass(frozen=True)
class TokenLatent(TensorRecord):
    """One or many moments, standardised.

    Attributes:
        tokens: `[..., N, C]`.
        proprio: `[..., P]`; zero, the mean, in a goal.
        past: what came before; None for what is imagined, and for goals.
    """

    tokens: Tensor
    proprio: Tensor
    past: Past | None = None
