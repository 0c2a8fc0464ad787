"""Shortest paths in a directed graph whose edges have lengths in control steps.

Shapes: `L` nodes, `E` edges.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

GOAL = -1  # the successor of a node from which the way leads straight to the goal


@dataclasses.dataclass(frozen=True)
class Edges:
    """Directed edges.

    Attributes:
        start: the node of each edge's start, int64 `[E]`.
        end: the node of its end, int64 `[E]`.
        steps: its length, above 0 `[E]` [control steps].
    """

    start: Tensor
    end: Tensor
    steps: Tensor

    @classmethod
    def cat(cls, parts: list[Edges]) -> Edges:
        """The edges of several graphs with the same nodes."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("start", "end", "steps")))

    def shortest(self, nodes: int) -> Edges:
        """The shortest edge from every node to every other, without edges from a node to itself."""
        proper = self.start != self.end
        start, end, steps = self.start[proper], self.end[proper], self.steps[proper]
        order = torch.argsort(steps)
        key = (start * nodes + end)[order]
        found, place = torch.unique(key, return_inverse=True)
        least = torch.full((len(found),), torch.inf).scatter_reduce(0, place, steps[order], "amin")
        return Edges(found // nodes, found % nodes, least)


def steps_to_go(edges: Edges, straight: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths of the shortest ways to a goal, and the next node on each (Bellman and Ford).

        steps_i = min(straight_i, min_j (steps_ij + steps_j))

    Args:
        edges: the graph.
        straight: length of the straight way from every node to the goal, infinite where there is none, `[L]`.

    Returns:
        steps `[L]`, infinite without a way, and successors `[L]`, which are `GOAL` where the straight way is shortest.
    """
    best = straight.clone()
    for _ in range(len(straight)):  # no shortest way visits a node twice
        along = edges.steps + best[edges.end]
        better = best.scatter_reduce(0, edges.start, along, "amin")
        if torch.equal(better, best):
            break
        best = better
    successor = torch.full((len(straight),), GOAL)
    along = edges.steps + best[edges.end]
    on_best = (along == best[edges.start]) & (best[edges.start] < straight[edges.start])
    successor[edges.start[on_best]] = edges.end[on_best]
    return best, successor
