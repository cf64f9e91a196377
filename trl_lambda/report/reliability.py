"""Predictions of an answer probe beside rewards: the calibration of the recorded groups."""

from __future__ import annotations

import itertools
from typing import Any

from ..credit_log.reading import Run

BINS = 10


def reliability(runs: list[Run]) -> list[dict[str, Any]]:
    """For each run with an answer probe the mean value and the mean reward of ten bins.

    Each segment of a recorded completion is one observation, of V before it and the completion's
    reward; the bins hold equally many.
    """
    drawn = []
    for run in runs:
        pairs = sorted(
            pair
            for group in run.groups
            for completion in group["completions"]
            for pair in _observations(completion)
        )
        if pairs:
            drawn.append({"name": run.name, **_bins(pairs)})
    return drawn


def _observations(completion: dict[str, Any]) -> list[tuple[float, float]]:
    """(V, reward) of each segment: a segment's tokens have one value."""
    reward, last, found = completion["reward"], None, []
    if not _is_number(reward):
        return []
    for value in completion.get("value") or ():
        if _is_number(value) and value != last:
            found.append((value, reward))
            last = value
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bins(pairs: list[tuple[float, float]]) -> dict[str, list]:
    count = min(BINS, len(pairs))
    edges = [number * len(pairs) // count for number in range(count + 1)]
    parts = [pairs[a:b] for a, b in itertools.pairwise(edges)]
    return {
        "predicted": [sum(value for value, _ in part) / len(part) for part in parts],
        "observed": [sum(reward for _, reward in part) / len(part) for part in parts],
        "count": [len(part) for part in parts],
    }
