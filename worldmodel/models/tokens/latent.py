"""The latent state of the tokens family, and its memory of past control steps.

Shapes: `...` leading dimensions, `B` robots, `N` tokens of a frame over all cameras, `C` numbers in each, `P`
proprioception, `A` action, `M` control steps that are remembered.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from worldmodel.core.tensor_record import TensorRecord


@dataclasses.dataclass(frozen=True)
class Past(TensorRecord):
    """The last M control steps before the present one, the latest at the end. All values are standardised.

    Attributes:
        tokens: `[B, M, N, C]`.
        proprio: `[B, M, P]`.
        actions: `[B, M, A]`, the action that was taken at each of these control steps.
        seen: `[B]`, how many of the M control steps belong to the episode. The entries before them are zero.
    """

    tokens: Tensor
    proprio: Tensor
    actions: Tensor
    seen: Tensor

    @classmethod
    def none(cls, tokens: Tensor, proprio: Tensor, actions: int, length: int) -> Past:
        """The empty past of an episode that begins with `tokens [B, N, C]` and `proprio [B, P]`.

        `actions` is A, and `length` is M.
        """
        rows = len(tokens)
        return cls(
            tokens.new_zeros(rows, length, *tokens.shape[1:]),
            proprio.new_zeros(rows, length, *proprio.shape[1:]),
            proprio.new_zeros(rows, length, actions),
            torch.zeros(rows, dtype=torch.long, device=tokens.device),
        )

    def followed_by(self, tokens: Tensor, proprio: Tensor, action: Tensor) -> Past:
        """The past one control step later. At that step, `action [B, A]` was taken after `tokens` and `proprio`."""
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
    """The latent state of one or many control steps, standardised.

    Attributes:
        tokens: `[..., N, C]`.
        proprio: `[..., P]`. It is zero, the mean, in a goal.
        past: the control steps before. It is None in imagined latent states and in goals.
    """

    tokens: Tensor
    proprio: Tensor
    past: Past | None = None
