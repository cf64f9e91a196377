"""Naive float64 loops for branches and sibling baselines, written from the definitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Ids = Sequence[Sequence[int]]
Token = Callable[[int, int], object]
"""What stands at (row, position): the token, or the row that wrote it."""

END = "end"


def by_tokens(ids: Ids) -> Token:
    return lambda i, t: ids[i][t] if t < len(ids[i]) else END


def by_writers(parents: Sequence[int], forks: Sequence[int]) -> Token:
    def writer(i: int, t: int) -> int:
        return i if t >= forks[i] else writer(parents[i], t)

    return writer


def mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def members(token: Token, groups: Sequence[int], i: int, prefix: int) -> list[int]:
    """Rows of i's group with the same first `prefix` tokens."""
    return [
        j
        for j in range(len(groups))
        if groups[j] == groups[i] and all(token(j, t) == token(i, t) for t in range(prefix))
    ]


def blend(siblings: Sequence[float], before: float, shrinkage: float) -> float:
    """(Σ siblings + κ·before)/(n + κ)."""
    siblings = [r for r in siblings if not math.isnan(r)]
    if not siblings or math.isinf(shrinkage):
        return before
    return (sum(siblings) + shrinkage * before) / (len(siblings) + shrinkage)


def sibling_baselines(
    token: Token, lengths, groups, rewards, width: int, shrinkage: float, initial=None
) -> Tensor:
    out = torch.zeros(len(groups), width, dtype=torch.float64)
    for i in range(len(groups)):
        everyone = mean([rewards[j] for j in members(token, groups, i, 0)])
        b = everyone if initial is None else initial[i]
        b = 0.0 if math.isnan(b) else b
        for t in range(width):
            if t < lengths[i]:
                sharing = members(token, groups, i, t)
                parting = [j for j in sharing if lengths[j] > 0 and token(j, t) != token(i, t)]
                b = blend([rewards[j] for j in parting], b, shrinkage)
            out[i, t] = b
    return out


def parts(token: Token, rows: Sequence[int], t: int) -> list[list[int]]:
    """Rows that share what stands before t, by what they have at t."""
    names = list(dict.fromkeys(token(i, t) for i in rows))
    return [[i for i in rows if token(i, t) == name] for name in names]


def value(
    token: Token, rewards, rows: Sequence[int], prefix: int, width: int, averaging: str
) -> float:
    """V of the prefix that the rows share; `width` tokens tell the rows apart, if anything does."""
    if averaging == "leaves" or prefix == width:
        return mean([rewards[i] for i in rows])
    children = parts(token, rows, prefix)
    return mean([value(token, rewards, c, prefix + 1, width, averaging) for c in children])


def values(token: Token, lengths, groups, rewards, width: int, averaging: str) -> Tensor:
    """V before each token and after the last, as `prefix_values`; the last known value stands."""
    out = torch.zeros(len(groups), width + 1, dtype=torch.float64)
    for i in range(len(groups)):
        v = 0.0
        for t in range(width + 1):
            if t <= lengths[i]:
                rows = members(token, groups, i, t)
                rows = rows if t == 0 else [j for j in rows if lengths[j] > 0]
                new = value(token, rewards, rows, t, width, averaging) if rows else math.nan
                v = v if math.isnan(new) else new
            out[i, t] = v
    return out


def branch_advantages(
    token: Token, lengths, groups, rewards, width: int, shrinkage: float, averaging: str
) -> Tensor:
    """V − b, token by token down from the roots; 0 past the end."""

    def worth(rows, prefix):
        counted = [j for j in rows if lengths[j] > 0]
        return value(token, rewards, counted, prefix, width, averaging) if counted else math.nan

    out = torch.zeros(len(groups), width, dtype=torch.float64)
    for i in range(len(groups)):
        b = None
        for t in range(lengths[i]):
            own = members(token, groups, i, t + 1)
            others = [c for c in parts(token, members(token, groups, i, t), t) if i not in c]
            if averaging == "leaves":
                siblings = [rewards[j] for c in others for j in c if lengths[j] > 0]
            else:
                siblings = [worth(c, t + 1) for c in others]
            if b is None:  # the roots
                b = mean(siblings)
                b = worth(members(token, groups, i, 0), 0) if math.isnan(b) else b
            else:
                b = blend(siblings, b, shrinkage)
            gain = worth(own, t + 1) - b
            out[i, t] = 0.0 if math.isnan(gain) else gain
    return out


def block_form(rewards: Sequence[Sequence[float]], shrinkage: float):
    """K roots continued M ways: (A before the fork per root, A after it per root and row)."""
    V = [mean(own) for own in rewards]
    before, after = [], []
    for i, own in enumerate(rewards):
        b = mean([v for j, v in enumerate(V) if j != i])
        before.append(V[i] - b)
        after.append(
            [r - blend([*own[:m], *own[m + 1 :]], b, shrinkage) for m, r in enumerate(own)]
        )
    return before, after


def branch_weights(token: Token, groups: Sequence[int], width: int) -> Tensor:
    """G/(k·n): k rows share a token, and the group has n branches at the position."""
    rows = range(len(groups))
    out = torch.zeros(len(groups), width, dtype=torch.float64)
    for i in rows:
        group = [j for j in rows if groups[j] == groups[i]]
        for t in range(width):
            shared = sum(token(j, t) == token(i, t) for j in group)
            out[i, t] = len(group) / (shared * len({token(j, t) for j in group}))
    return out
