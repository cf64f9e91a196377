"""Which groups a page shows when a log holds more than a page should weigh."""

from __future__ import annotations

from collections.abc import Iterator


def spread(sizes: list[int], budget: int) -> list[int]:
    """Indices of items that fit the budget together, spread evenly over the whole, in order.

    The last comes first, then the first, then what halves the gaps; one that does not fit is left
    out and smaller ones may still follow.
    """
    chosen, used = [], 0
    for index in _halving(len(sizes)):
        if used + sizes[index] <= budget:
            chosen.append(index)
            used += sizes[index]
    return sorted(chosen)


def _halving(count: int) -> Iterator[int]:
    """0 … count − 1, coarse before fine: the ends, the middle, the quarters …"""
    seen: set[int] = set()
    parts = 1
    while len(seen) < count:
        for part in range(parts, -1, -1):
            index = round(part * (count - 1) / parts)
            if index not in seen:
                seen.add(index)
                yield index
        parts *= 2
