"""Naive float64 loops for credit by segments, written from the definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import oracles
import torch
from torch import Tensor


def cut(ends: Sequence[bool], mask: Sequence[int]) -> list[list[int]]:
    """The positions of the policy tokens of each segment."""
    segments: list[list[int]] = [[]]
    for t, policy in enumerate(mask):
        if policy:
            segments[-1].append(t)
        if ends[t] and segments[-1]:
            segments.append([])
    return [segment for segment in segments if segment]


def returns(deltas: Sequence[float], decay: float, style: str, normalize: bool) -> list[float]:
    """Wᵀδ over segments, from the dense matrix."""
    if not deltas:
        return []
    W = oracles.trace_matrix(len(deltas), decay, style, normalize)
    return (W.T @ torch.tensor(deltas, dtype=torch.float64)).tolist()


def probe_credit(
    ends, mask, values, reward: float, std: float, decay: float, style="recent", normalize=False
) -> list[float]:
    """A of each token of one row, whose decay counts segments; `values` has V_k of each."""
    credit = [0.0] * len(mask)
    segments = cut(ends, mask)
    after = [*values[1 : len(segments)], reward]
    deltas = [(b - a) / std for a, b in zip(values, after, strict=False)][: len(segments)]
    for segment, value in zip(segments, returns(deltas, decay, style, normalize), strict=True):
        for t in segment:
            credit[t] = value
    return credit


def leave_one_out(rewards: Sequence[float], groups: Sequence[int]) -> list[float]:
    out = []
    for i, own in enumerate(rewards):
        others = [
            r
            for j, r in enumerate(rewards)
            if j != i and groups[j] == groups[i] and not math.isnan(r)
        ]
        out.append(sum(others) / len(others) if others else own)
    return out


def ridge(x: Tensor, y: Tensor, weight: Tensor, strength: float) -> Tensor:
    """Coefficients with the constant first, by solving the penalised least squares as one system.

    Rows √w·(1, (x − x̄)/s) and, as data, √strength for each slope, with the target 0.
    """
    mean = (weight[:, None] * x).sum(0) / weight.sum()
    deviation = ((weight[:, None] * (x - mean) ** 2).sum(0) / weight.sum()).sqrt()
    keeps = deviation > 1e-9
    standard = (x - mean)[:, keeps] / deviation[keeps]
    root = weight.sqrt()[:, None]
    F = standard.shape[1]
    design = torch.cat(
        [
            torch.cat([root, root * standard], 1),
            torch.cat([torch.zeros(F, 1), strength**0.5 * torch.eye(F, dtype=torch.float64)], 1),
        ]
    )
    target = torch.cat([root[:, 0] * y, torch.zeros(F, dtype=torch.float64)])
    solved = torch.linalg.lstsq(design, target).solution
    slope = torch.zeros(x.shape[1], dtype=torch.float64)
    slope[keeps] = solved[1:] / deviation[keeps]
    return torch.cat([(solved[0] - (slope * mean).sum())[None], slope])
