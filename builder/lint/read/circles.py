"""(each ensemble's steps) → which models reach one another in a circle; pure, linear in the number of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def circles(steps: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Model → a number that it shares with just those models that it reaches and that reach it.

    Strongly connected components by Tarjan's algorithm, on a stack of its own: circles may be long.
    """
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    found: dict[str, int] = {}
    pending: list[str] = []
    walk: list[tuple[str, Iterator[str]]] = []

    def enter(name: str) -> None:
        order[name] = lowest[name] = len(order)
        pending.append(name)
        walk.append((name, iter(steps[name])))

    for root in steps:
        if root not in order:
            enter(root)
        while walk:
            name, rest = walk[-1]
            step = next((s for s in rest if s in steps and s not in found), None)
            if step is not None and step not in order:
                enter(step)
            elif step is not None:
                lowest[name] = min(lowest[name], order[step])
            else:
                walk.pop()
                if walk:
                    lowest[walk[-1][0]] = min(lowest[walk[-1][0]], lowest[name])
                while lowest[name] == order[name] and name not in found:
                    found[pending.pop()] = order[name]
    return found
