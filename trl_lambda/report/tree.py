"""The prefix tree of a group: its process sets, drawn as branches.

A branch is a stretch of tokens that the same completions share; its completions are the process set
of each of its tokens. The mean reward of a set is the reward that GRPO's hidden process reward
model gives the step (λ-GRPO, arXiv 2509.21154, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Branch:
    """Tokens `start` … `end` − 1 of the completions `rows` (indices into the group).

    Attributes:
        parent: index of the branch this one grows from; None for the root, the whole group.
        mean_reward: over the rows whose reward is known; None if there is none.
        step_advantage: mean of the rows' group advantages. The group advantage is linear in the
            reward, (r − μ)/σ with whatever σ the run used, so this is the advantage of the mean
            reward: (mean_reward − μ)/σ. To 4 decimals, as far as the rounded record knows it.
    """

    parent: int | None
    start: int
    end: int
    rows: tuple[int, ...]
    mean_reward: float | None
    step_advantage: float | None


def prefix_tree(completions: list[dict[str, Any]]) -> list[Branch]:
    """Branches of a group, parents before children; the first is the whole group.

    O(B·T) for B completions of T tokens. The root is the prefix that all share, often the empty
    one. A completion that ends inside a branch is a row of that branch and of no child.
    """
    ids = [completion["ids"] for completion in completions]
    branches: list[Branch] = []
    pending: list[tuple[int | None, int, list[int]]] = [(None, 0, list(range(len(ids))))]
    while pending:
        parent, start, rows = pending.pop()
        end = _shared_until(ids, rows, start)
        branches.append(_branch(completions, parent, start, end, rows))
        children = _by_token(ids, rows, end)
        pending += [(len(branches) - 1, end, members) for members in reversed(children)]
    return branches


def _shared_until(ids: list[list[int]], rows: list[int], start: int) -> int:
    """The first position from `start` at which the rows differ, or one of them ends."""
    shortest = min((len(ids[row]) for row in rows), default=0)
    first, *others = rows or [0]
    for t in range(start, shortest if others else start):
        if any(ids[row][t] != ids[first][t] for row in others):
            return t
    return shortest


def _by_token(ids: list[list[int]], rows: list[int], t: int) -> list[list[int]]:
    """The rows that have a token at t, by that token, most frequent first."""
    members: dict[int, list[int]] = {}
    for row in rows:
        if len(ids[row]) > t:
            members.setdefault(ids[row][t], []).append(row)
    return sorted(members.values(), key=len, reverse=True)


def _branch(
    completions: list[dict[str, Any]], parent: int | None, start: int, end: int, rows: list[int]
) -> Branch:
    known = [completions[row] for row in rows if completions[row]["reward"] is not None]
    return Branch(
        parent=parent,
        start=start,
        end=end,
        rows=tuple(rows),
        mean_reward=_mean([completion["reward"] for completion in known]),
        step_advantage=_mean([completion["group_advantage"] for completion in known]),
    )


def _mean(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return round(sum(numbers) / len(numbers), 4) if numbers else None
