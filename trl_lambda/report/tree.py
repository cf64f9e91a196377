"""The prefix tree of a group: its process sets, drawn as branches.

A branch is a stretch of tokens that the same completions share; its completions are the process set
of each of its tokens. The mean reward of a set is the reward that GRPO's hidden process reward
model gives the step (λ-GRPO, arXiv 2509.21154, section 3).

In a group whose forks are recorded, completions share the tokens that were sampled once and then
taken over: completions that merely agree part, as they do in the credit. Elsewhere completions
share equal tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..credit_log.forks import first_token, has_forks, token_count, writer


@dataclass(frozen=True)
class Branch:
    """Tokens `start` … `end` − 1 of the completions `rows` (indices into the group).

    They are counted as they were sampled: those that a cut left out of the record count too.

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


@dataclass(frozen=True)
class Names:
    """Names of stretches of tokens: completions that share a stretch have one name for it.

    Attributes:
        of_rows: for each completion the names of its stretches, in order.
        start: (completion, number of a stretch) -> the token at which it starts, or the number of
            tokens where there is no further stretch.
    """

    of_rows: list[list[int]]
    start: Callable[[int, int], int]


def prefix_tree(completions: list[dict[str, Any]]) -> list[Branch]:
    """Branches of a group, parents before children; the first is the whole group.

    O(B·T) for B completions of T tokens, or O(B²) where forks are recorded. The root is the prefix
    that all share, often the empty one. A completion that ends inside a branch is a row of that
    branch and of no child; so is a copy of a completion.
    """
    names = _names_of_writers(completions) if has_forks(completions) else _token_ids(completions)
    branches: list[Branch] = []
    pending: list[tuple[int | None, int, list[int]]] = [(None, 0, list(range(len(completions))))]
    while pending:
        parent, start, rows = pending.pop()
        end = _shared_until(names.of_rows, rows, start)
        span = [names.start(rows[0], at) if rows else 0 for at in (start, end)]
        branches.append(_branch(completions, parent, *span, rows))
        children = _by_name(names.of_rows, rows, end)
        pending += [(len(branches) - 1, end, members) for members in reversed(children)]
    return branches


def _token_ids(completions: list[dict[str, Any]]) -> Names:
    """A stretch is an entry of the record: a token, or what a cut left out."""
    ids = [completion["ids"] for completion in completions]
    return Names(ids, lambda row, entry: first_token(completions[row], entry))


def _names_of_writers(completions: list[dict[str, Any]]) -> Names:
    """A stretch lies between two tokens at which any completion was forked, or ends.

    Its name is the completion that sampled it, which is one and the same all along.
    """
    lengths = [token_count(completion) for completion in completions]
    starts = sorted({0, *lengths, *(completion["fork"] for completion in completions)})
    writers = [
        [writer(completions, row, start) for start in starts if start < length]
        for row, length in enumerate(lengths)
    ]
    return Names(writers, lambda row, stretch: starts[stretch])


def _shared_until(names: list[list[int]], rows: list[int], start: int) -> int:
    """The first stretch from `start` on at which the rows differ, or one of them ends."""
    shortest = min((len(names[row]) for row in rows), default=0)
    first, *others = rows or [0]
    for at in range(start, shortest if others else start):
        if any(names[row][at] != names[first][at] for row in others):
            return at
    return shortest


def _by_name(names: list[list[int]], rows: list[int], at: int) -> list[list[int]]:
    """The rows that have a stretch there, by its name, most frequent first."""
    members: dict[int, list[int]] = {}
    for row in rows:
        if len(names[row]) > at:
            members.setdefault(names[row][at], []).append(row)
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
