"""Rotary positions in Meta's two layouts, and positions that are stretched to one grid."""

from __future__ import annotations

import math

import pytest
import torch

from worldmodel.encoders.base import Grid
from worldmodel.encoders.positions import REPEATED, TILED, rotary_angles, rotate, stretched, token_coordinates


@pytest.mark.parametrize("layout", [TILED, REPEATED])
def test_the_equation_of_both_layouts(layout: str) -> None:
    """Number by number, for a head of 20: six numbers for each axis, and two that are not turned."""
    position, head = (3, 5, 7), torch.randn(20, generator=torch.Generator().manual_seed(0)).tolist()
    turned = rotate(torch.tensor(head)[None, None, None], rotary_angles(torch.tensor([[position]]), 20, layout))
    wanted = list(head)
    for axis, place in enumerate(position):
        angles = [place / 10_000 ** (2 * k / 6) for k in range(3)]
        of_number = [angles[i % 3] if layout == TILED else angles[i // 2] for i in range(6)]
        for even in range(0, 6, 2):
            u, v = head[6 * axis + even], head[6 * axis + even + 1]
            a, b = of_number[even], of_number[even + 1]
            wanted[6 * axis + even] = u * math.cos(a) - v * math.sin(a)
            wanted[6 * axis + even + 1] = v * math.cos(b) + u * math.sin(b)
    torch.testing.assert_close(turned.flatten(), torch.tensor(wanted))


def test_only_the_corrected_layout_sees_relative_positions() -> None:
    """A query and a key that move together. This is the mistake in V-JEPA 2 with which its weights were trained."""
    query, key = torch.randn(2, 1, 1, 1, 24, generator=torch.Generator().manual_seed(0))

    def product(layout: str, moved: int) -> float:
        here, there = (torch.tensor([[[p + moved] * 3]]) for p in (1, 4))
        return float(
            (rotate(query, rotary_angles(here, 24, layout)) * rotate(key, rotary_angles(there, 24, layout))).sum()
        )

    assert product(REPEATED, 0) == pytest.approx(product(REPEATED, 9), abs=1e-4)
    assert product(TILED, 0) != pytest.approx(product(TILED, 9), abs=1e-2)


def test_stretched_positions_end_at_the_same_place_in_any_grid() -> None:
    for grid in (Grid(4, 6), Grid(24, 24), Grid(16, 16)):
        places = stretched(token_coordinates(2, grid), grid, 16)
        assert places.amax(0).tolist() == pytest.approx([1, 15, 15])
    grid = Grid(16, 16)
    assert torch.equal(stretched(token_coordinates(1, grid), grid, 16), token_coordinates(1, grid).float())
    assert stretched(token_coordinates(1, Grid(1, 2)), Grid(1, 2), 16).tolist() == [[0, 0, 0], [0, 0, 15]]
