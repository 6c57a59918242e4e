"""Points of throughput and latency → those that no other point beats in both; pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from tritonsmith.perf.report.cells import Cell

Key = TypeVar("Key", bound=Hashable)


def pareto_front(points: Sequence[tuple[Key, float, float]]) -> list[Key]:
    """Keys of (key, more is better, less is better) that are not dominated, in order of the first value.

    A point is dominated when another is at least as good in both and better in one; equal points stay together.
    """
    front: list[tuple[Key, float, float]] = []
    for key, more, less in sorted(points, key=lambda p: (-p[1], p[2])):
        if not front or less < front[-1][2] or (more, less) == front[-1][1:]:
            front.append((key, more, less))
    return [key for key, _, _ in reversed(front)]


def front_of(
    cells: Mapping[tuple[str, int], Cell], rate_name: str = "throughput_per_s"
) -> list[tuple[str, int]]:
    """(arm, concurrency) of the front of throughput and p99 latency, lowest throughput first.

    rate_name: of the estimates, the throughput. Whether two neighbours differ is for their intervals to say.
    """
    points = []
    for key, cell in cells.items():
        rate, p99 = cell.estimates[rate_name].value, cell.estimates["p99_ns"].value
        if rate is not None and p99 is not None:
            points.append((key, rate, p99))
    return pareto_front(points)
