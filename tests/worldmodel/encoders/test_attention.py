"""Attention with either kernel, and blocks that leave out branches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from worldmodel.encoders import attention
from worldmodel.encoders.attention import Block, attend, drop_path, mlp_size, repeatable


@pytest.mark.parametrize("few", [0, 100], ids=["fused", "two products"])
def test_both_kernels_attend_to_what_is_allowed(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "FEW_TOKENS", few)
    query, key, value = torch.randn(3, 2, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    allowed = torch.eye(9, dtype=torch.bool) | (
        torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    )
    for mask in (None, allowed):
        wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        found = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask)
        torch.testing.assert_close(found.float(), wanted, atol=0.05, rtol=0.05)
    alone = attend(query, key, value, torch.eye(9, dtype=torch.bool)[None, None])
    torch.testing.assert_close(alone, value)


def test_the_kernel_follows_the_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    fused: list[int] = []

    def recorded(query: torch.Tensor, *rest: torch.Tensor, attn_mask: torch.Tensor | None) -> torch.Tensor:
        fused.append(query.shape[2])
        return query

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    for tokens in (attention.FEW_TOKENS, attention.FEW_TOKENS + 1):
        attend(*torch.zeros(3, 1, 1, tokens, 2, dtype=torch.bfloat16))
    assert fused == [attention.FEW_TOKENS + 1]


def test_a_dropped_branch_is_0_and_a_kept_one_is_larger() -> None:
    branch = torch.randn(4000, 1, 2, generator=torch.Generator().manual_seed(0))
    with repeatable(0):
        dropped = drop_path(branch, 0.25)
    kept = (dropped != 0).all(-1)[:, 0]
    assert torch.equal(dropped[~kept], torch.zeros_like(dropped[~kept]))
    torch.testing.assert_close(dropped[kept], branch[kept] / 0.75)
    assert kept.float().mean() == pytest.approx(0.75, abs=0.03)


def test_what_is_dropped_depends_on_the_seed_alone() -> None:
    block, tokens = Block(8, 2, 2.0, drop_path=0.5), torch.randn(6, 3, 8)

    def run(seed: int) -> torch.Tensor:
        before = torch.get_rng_state()
        with repeatable(seed):
            made = block(tokens)
        assert torch.equal(torch.get_rng_state(), before)
        return made

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    whole = Block(8, 2, 2.0)
    whole.load_state_dict(block.state_dict())
    with torch.no_grad():  # targets
        assert torch.equal(block(tokens), whole(tokens))
    assert torch.equal(block.eval()(tokens), whole(tokens))


def test_a_ratio_of_sizes_gives_its_size() -> None:
    assert [mlp_size(1408, 48 / 11), mlp_size(1664, 64 / 13), mlp_size(14, 3687 / 14), mlp_size(10, 0.25)] == [
        6144, 8192, 3687, 2
    ]  # fmt: skip
