"""Means and deviations of rewards: the numbers behind GRPO's advantage.

Shape suffixes: N values (rewards of completions, or of steps), of any number of groups.
"""

from __future__ import annotations

import math
from typing import Literal, cast, get_args

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
SCALES: tuple[str, ...] = get_args(Scale)

# TRL adds it to the standard deviation; so do we, so that both divide by the same number.
STD_EPSILON = 1e-4


def group_mean(values_N: Tensor, group_ids_N: Tensor) -> Tensor:
    """Mean of the known values of each value's group; NaN where none is known.

    Args:
        values_N: `(N,)`, floating point; NaN is unknown.
        group_ids_N: `(N,)`, integer, in any order.

    Returns:
        `(N,)` in the dtype of `values_N`.
    """
    group_N, groups = _numbered(group_ids_N)
    return _group_means(values_N, group_N, groups)[group_N]


def reward_denominator(values_N: Tensor, group_ids_N: Tensor, *, scale: Scale = "group") -> Tensor:
    """The deviation that GRPO divides a centred reward by.

    `"group"`: the standard deviation of the group (Bessel's correction) + 1e-4; `"batch"`: that of
    all values; `"none"` (Dr. GRPO): 1. Where fewer than two values are known the deviation is
    unknown and the denominator infinite: whatever is divided by it is 0, as TRL has it.

    Args:
        values_N: `(N,)`, floating point; NaN is unknown.
        group_ids_N: `(N,)`, integer, in any order.
        scale: TRL's `scale_rewards`.

    Returns:
        `(N,)` in the dtype of `values_N`.

    Raises:
        ValueError: an unknown scale.

    Source: GRPO, arXiv 2402.03300, section 4.1.2; Dr. GRPO, arXiv 2503.20783, section 3.1.
    """
    if scale not in SCALES:
        raise ValueError(f"reward_denominator: scale must be one of {SCALES}, got {scale!r}.")
    if scale == "none":
        return torch.ones_like(values_N)
    if scale == "batch":
        group_ids_N = torch.zeros_like(group_ids_N)
    group_N, groups = _numbered(group_ids_N)
    squares_N = (values_N - _group_means(values_N, group_N, groups)[group_N]) ** 2
    known = _group_sums((~values_N.isnan()).to(values_N.dtype), group_N, groups)
    variance = _group_sums(squares_N.nan_to_num(0.0), group_N, groups) / (known - 1)
    std = torch.where(known > 1, variance, torch.inf).sqrt()
    return std[group_N] + STD_EPSILON


def summable_scale(values_N: Tensor) -> Tensor:
    """A power of two that makes the known values small enough to be added up; 1 unless needed.

    A mean lies among its values, but their sum may overflow: float32 ends at 3.4e38. Multiplying
    and dividing by a power of two changes no digit.
    """
    largest = values_N.nan_to_num(0.0).abs().amax() if values_N.numel() else values_N.new_zeros(())
    count = max(values_N.numel(), 1)
    limit = torch.finfo(values_N.dtype).max / count
    return torch.where(largest > limit, 2.0 ** -math.ceil(math.log2(count + 1)), 1.0).to(
        values_N.dtype
    )


def _numbered(group_ids_N: Tensor) -> tuple[Tensor, int]:
    names, group_N = cast(tuple[Tensor, Tensor], torch.unique(group_ids_N, return_inverse=True))
    return group_N, names.numel()


def _group_sums(values_N: Tensor, group_N: Tensor, groups: int) -> Tensor:
    return values_N.new_zeros(groups).index_add_(0, group_N, values_N)


def _group_means(values_N: Tensor, group_N: Tensor, groups: int) -> Tensor:
    known_N = (~values_N.isnan()).to(values_N.dtype)
    scale = summable_scale(values_N)
    sums = _group_sums(values_N.nan_to_num(0.0) * scale, group_N, groups)
    return sums / _group_sums(known_N, group_N, groups) / scale
