"""Shortest ways in a graph, on graphs small enough to be right by inspection and against another algorithm."""

from __future__ import annotations

import heapq

import pytest
import torch

from worldmodel.models.landmarks.graph import GOAL, Edges, steps_to_go

INF = torch.inf


def edges_of(*edges: tuple[int, int, float]) -> Edges:
    start, end, steps = zip(*edges, strict=True)
    return Edges(torch.tensor(start), torch.tensor(end), torch.tensor(steps))


def test_the_shortest_way_wins_and_ways_have_a_direction() -> None:
    edges = edges_of((0, 1, 1.0), (1, 2, 1.0), (0, 2, 5.0), (3, 0, 2.0))
    steps, successor = steps_to_go(edges, torch.tensor([INF, INF, 3.0, INF]))
    assert steps.tolist() == [5.0, 4.0, 3.0, 7.0]
    assert successor.tolist() == [1, 2, GOAL, 0]
    steps, successor = steps_to_go(edges, torch.tensor([1.0, INF, INF, INF]))
    assert steps.tolist() == [1.0, INF, INF, 3.0]  # nothing leads from 1 or 2 to 0
    assert successor.tolist() == [GOAL, GOAL, GOAL, 0]


def test_of_several_edges_the_shortest_is_kept_and_none_leads_to_its_own_start() -> None:
    kept = edges_of((0, 1, 4.0), (0, 1, 3.0), (1, 1, 1.0), (1, 0, 2.0)).shortest(2)
    found = sorted(zip(kept.start.tolist(), kept.end.tolist(), kept.steps.tolist(), strict=True))
    assert found == [(0, 1, 3.0), (1, 0, 2.0)]


def dijkstra(edges: Edges, straight: torch.Tensor) -> list[float]:
    back: dict[int, list[tuple[int, float]]] = {}
    for start, end, steps in zip(edges.start.tolist(), edges.end.tolist(), edges.steps.tolist(), strict=True):
        back.setdefault(end, []).append((start, steps))
    best = [INF] * len(straight)
    queue = [(length, node) for node, length in enumerate(straight.tolist()) if length < INF]
    heapq.heapify(queue)
    while queue:
        length, node = heapq.heappop(queue)
        if length < best[node]:
            best[node] = length
            for start, steps in back.get(node, []):
                heapq.heappush(queue, (length + steps, start))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_dijkstra_and_following_the_successors_is_as_long(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randint(40, (2, 150), generator=generator)
    edges = Edges(start, end, torch.randint(1, 9, (150,), generator=generator).float()).shortest(40)
    straight = torch.full((40,), INF)
    straight[torch.randperm(40, generator=generator)[:3]] = torch.tensor([1.0, 2.0, 3.0])
    steps, successor = steps_to_go(edges, straight)
    assert steps.tolist() == dijkstra(edges, straight)
    length = {(a, b): c for a, b, c in zip(edges.start.tolist(), edges.end.tolist(), edges.steps.tolist(), strict=True)}
    for node in range(40):
        here, walked = node, 0.0
        while int(successor[here]) != GOAL:
            following = int(successor[here])
            walked += length[here, following]
            here = following
        assert walked + float(straight[here]) == float(steps[node])
