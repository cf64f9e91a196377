"""Naive float64 loops written from the definitions, one token at a time; nothing here is fast."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

Ids = Sequence[Sequence[int]]


@functools.lru_cache
def trace_matrix(n: int, decay: float, style: str, normalize: bool = False) -> Tensor:
    """W over n policy tokens."""
    W = torch.zeros(n, n, dtype=torch.float64)
    for t in range(n):
        for k in range(t + 1):
            W[t, k] = decay ** (t - k) if style == "recent" else max(decay ** (t - k), decay**k)
        if normalize:
            W[t] /= W[t].sum()
    return W


def apply_to_policy_tokens(values: Tensor, mask: Tensor, matrix) -> Tensor:
    """matrix(n) times the policy tokens of each row, 0 elsewhere."""
    out = torch.zeros(values.shape, dtype=torch.float64)
    for i in range(len(values)):
        where = mask[i].nonzero().flatten()
        out[i, where] = matrix(len(where)) @ values[i, where].double()
    return out


def trace(x: Tensor, mask: Tensor, decay: float, style: str, normalize: bool = False) -> Tensor:
    return apply_to_policy_tokens(x, mask, lambda n: trace_matrix(n, decay, style, normalize))


def transposed(d: Tensor, mask: Tensor, decay: float, style: str, normalize: bool = False):
    return apply_to_policy_tokens(d, mask, lambda n: trace_matrix(n, decay, style, normalize).T)


def row_sums(mask: Tensor, decay: float, style: str) -> Tensor:
    return trace(torch.ones(mask.shape), mask, decay, style)


def sharing(ids: Ids, groups: Sequence[int], i: int, prefix: int) -> list[int]:
    """Rows of i's group whose first `prefix` tokens exist and equal those of row i."""
    return [
        j
        for j in range(len(ids))
        if groups[j] == groups[i]
        and len(ids[j]) >= prefix
        and list(ids[j][:prefix]) == list(ids[i][:prefix])
    ]


def set_sizes(ids: Ids, groups: Sequence[int]) -> list[list[int]]:
    return [
        [len(sharing(ids, groups, i, t + 1)) for t in range(len(ids[i]))] for i in range(len(ids))
    ]


def prefix_values(ids: Ids, groups: Sequence[int], rewards: Sequence[float], width: int) -> Tensor:
    """V before each of `width` tokens and after the last; the last known value stands."""
    out = torch.zeros(len(ids), width + 1, dtype=torch.float64)
    for i in range(len(ids)):
        value = 0.0
        for t in range(width + 1):
            if t <= len(ids[i]):
                known = [rewards[j] for j in sharing(ids, groups, i, t)]
                known = [r for r in known if not math.isnan(r)]
                value = sum(known) / len(known) if known else value
            out[i, t] = value
    return out


def scaled(values: Sequence[float], groups: Sequence[int], scale: str) -> list[float]:
    """(r − mean of the group)/(std + 1e-4); 0 where the deviation is unknown."""
    out = []
    for value, group in zip(values, groups, strict=True):
        own = [v for v, g in zip(values, groups, strict=True) if g == group and not math.isnan(v)]
        mean = sum(own) / len(own) if own else math.nan
        pool = own if scale == "group" else [v for v in values if not math.isnan(v)]
        if scale == "none":
            out.append(value - mean)
        elif len(pool) < 2:
            out.append(0.0)
        else:
            centre = sum(pool) / len(pool)
            std = math.sqrt(sum((v - centre) ** 2 for v in pool) / (len(pool) - 1))
            out.append((value - mean) / (std + 1e-4))
    return [0.0 if math.isnan(v) else v for v in out]


def step_td_errors(steps, mask: Tensor, groups: Sequence[int], scale: str) -> Tensor:
    flat = [(i, end, r) for i, own in enumerate(steps) for end, r in own or []]
    values = scaled([r for _, _, r in flat], [groups[i] for i, _, _ in flat], scale)
    out = torch.zeros(mask.shape, dtype=torch.float64)
    for (i, end, _), value in zip(flat, values, strict=True):
        while end >= 0 and not mask[i, end]:
            end -= 1
        if end >= 0:
            out[i, end] += value
    return out
