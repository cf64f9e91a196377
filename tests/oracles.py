"""Naive float64 loops written from the definitions, one token at a time; nothing here is fast."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from sibling_oracles import by_tokens, sibling_baselines
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


def credit(
    rule, ids: Ids, groups, rewards, mask: Tensor, steps=None, scale: str = "group", outcome=True
):
    """(advantage, weight), (B, T), from the definitions; `ids` are ragged, rewards may be NaN."""
    B, T = mask.shape
    advantages = scaled(rewards, groups, scale)
    floor = rule.advantage_floor
    if floor is not None and rule.td_error != "sibling":
        advantages = [max(a, floor) for a in advantages]
    delta = torch.zeros(B, T, dtype=torch.float64)
    values = prefix_values(ids, groups, rewards, T)
    lengths = list(map(len, ids))
    kappa = rule.sibling_shrinkage
    baselines = sibling_baselines(by_tokens(ids), lengths, groups, rewards, T, kappa)
    for i in range(B):
        policy = mask[i].nonzero().flatten().tolist()
        unit = _denominator(i, groups, rewards, scale)
        for t in policy:
            if rule.td_error == "group":
                delta[i, t] = advantages[i]
            elif rule.td_error == "sibling":
                if not math.isnan(rewards[i]):
                    delta[i, t] = (rewards[i] - baselines[i, t]) / unit
                delta[i, t] = max(delta[i, t], -math.inf if floor is None else floor)
            elif rule.td_error == "tree":
                delta[i, t] = (values[i, t + 1] - values[i, t]) / unit
            elif t == policy[-1] and (rule.td_error == "terminal" or outcome):
                delta[i, t] = advantages[i]
    if rule.td_error == "process":
        delta += step_td_errors(steps, mask, groups, scale)
    traced = rule.trace_style != "none"
    out = delta
    if traced and rule.trace_mode == "advantage":
        out = transposed(delta, mask, rule.decay, rule.trace_style, rule.normalize_trace)
    if rule.td_error == "tree":
        out = out + torch.tensor(advantages, dtype=torch.float64)[:, None]
    if traced and rule.trace_mode == "weight":
        v = row_sums(mask, rule.decay, rule.trace_style)
        if rule.normalize_trace:
            v = (
                v
                / torch.stack([row[m.bool()].mean() for row, m in zip(v, mask, strict=True)])[
                    :, None
                ]
            )
        out = out * v.nan_to_num(0.0)
    weight = torch.ones(B, T, dtype=torch.float64)
    if rule.process_set_weighting:
        for i, row in enumerate(set_sizes(ids, groups)):
            weight[i, : len(row)] = 1 / torch.tensor(row, dtype=torch.float64)
    return out * weight * mask, weight * mask


def _denominator(i: int, groups, rewards, scale: str) -> float:
    if math.isnan(rewards[i]):
        return math.inf
    if scale == "none":
        return 1.0
    pool = [
        r
        for r, g in zip(rewards, groups, strict=True)
        if not math.isnan(r) and (scale == "batch" or g == groups[i])
    ]
    if len(pool) < 2:
        return math.inf
    return torch.tensor(pool, dtype=torch.float64).std().item() + 1e-4


def loss(
    rule,
    logps: Tensor,
    old: Tensor,
    advantage: Tensor,
    weight: Tensor,
    mask: Tensor,
    *,
    loss_type: str,
    beta: float,
    reference: Tensor | None = None,
    bias_correction: bool = True,
    epsilon: float = 0.2,
    max_completion_length: int,
    items: float,
    accumulation: float,
    per_generation: float,
    processes: int = 1,
) -> Tensor:
    """The whole loss, token by token; `advantage` holds w and v, `weight` is w."""
    B, T = mask.shape
    z = logps - old
    if rule.trace_style != "none" and rule.trace_mode == "ratio":
        rows = []
        for i in range(B):
            where = mask[i].nonzero().flatten()
            W = trace_matrix(len(where), rule.decay, rule.trace_style, rule.normalize_trace)
            rows.append(torch.zeros(T, dtype=torch.float64).index_put((where,), W @ z[i, where]))
        z = torch.stack(rows).clamp(-20, 20)
    total, row_totals = 0.0, []
    for i in range(B):
        row = 0.0
        for t in range(T):
            if not mask[i, t]:
                continue
            A, ratio = advantage[i, t], torch.exp(z[i, t])
            if loss_type == "cispo":
                term = ratio.clamp(max=epsilon).detach() * A * z[i, t]
            elif loss_type == "sapo":
                temperature = 1.0 if A > 0 else torch.tensor(1.05).double()  # TRL: float32
                term = torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature * A
            else:
                term = torch.min(ratio * A, ratio.clamp(1 - epsilon, 1 + epsilon) * A)
            if beta:
                gap = reference[i, t] - logps[i, t]
                kl = torch.exp(gap) - gap - 1
                if bias_correction:
                    kl = kl * torch.exp(logps[i, t] - old[i, t])
                term = term - beta * weight[i, t] * kl
            row = row - term
        row_totals.append(row)
        total = total + row
    tokens = max(mask.sum().item(), 1)
    if loss_type in ("grpo", "sapo"):
        means = [row / max(m.sum().item(), 1) for row, m in zip(row_totals, mask, strict=True)]
        return sum(means) / B / accumulation
    if loss_type == "bnpo":
        return total / tokens / accumulation
    if loss_type == "dr_grpo":
        return total / (B * max_completion_length) / accumulation
    return total / (max(items, 1) / processes * accumulation / per_generation)


def sampling_correction(inputs, mode, most):
    """TRL's documented correction: π_old/π_vLLM per token or sequence, cut or dropped above."""
    difference = inputs["old_per_token_logps"] - inputs["sampling_per_token_logps"]
    difference = difference * inputs["completion_mask"]
    if mode.startswith("sequence"):
        difference = difference.sum(1, keepdim=True)
    ratio = difference.exp()
    return ratio.clamp(max=most) if mode.endswith("truncate") else ratio * (ratio <= most)
