"""Which associators carry a present modality's latent to an absent one: the cheapest by validated cost."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from configs.errors import AfterimageError

Edge = tuple[str, str]
Path = tuple[str, ...]


class NoPathError(AfterimageError, ValueError):
    """The associators do not connect every pair of modalities; the message names an unreachable pair."""


def cheapest_paths(edge_cost: Mapping[Edge, float]) -> dict[Edge, Path]:
    """The cheapest path between every ordered pair of modalities (Dijkstra).

    Args:
        edge_cost: (source, target) of each associator -> its validated cost, finite and at least 0.

    Returns:
        (source, target) -> modalities along the path, both ends included. Ties go to the shorter, then to the
        alphabetically first path, so the choice is reproducible.

    Raises:
        ValueError: a cost is negative or not finite.
        NoPathError: some pair is not connected.
    """
    for edge, cost in edge_cost.items():
        if not 0.0 <= cost < float("inf"):
            raise ValueError(f"cost of associator {edge[0]} -> {edge[1]} must be finite and >= 0, got {cost}")
    names = sorted({name for edge in edge_cost for name in edge})
    paths: dict[Edge, Path] = {}
    for source in names:
        for target, path in _from(source, edge_cost).items():
            if target != source:
                paths[source, target] = path
    for source in names:
        for target in names:
            if source != target and (source, target) not in paths:
                raise NoPathError(
                    f"no associators lead from {source!r} to {target!r}; have {sorted(edge_cost)}"
                )
    return paths


def _from(source: str, edge_cost: Mapping[Edge, float]) -> dict[str, Path]:
    done: dict[str, Path] = {}
    queue: list[tuple[float, int, Path]] = [(0.0, 1, (source,))]
    while queue:
        cost, length, path = heapq.heappop(queue)
        at = path[-1]
        if at in done:
            continue
        done[at] = path
        for (start, end), step in edge_cost.items():
            if start == at and end not in done:
                heapq.heappush(queue, (cost + step, length + 1, (*path, end)))
    return done
