"""The logged metrics: each formula once, as sums and counts that add up over processes.

Shape suffixes: B completions, T completion positions, N completions of all processes. A statistic
is a pair (sum, count), its metric sum/count; the README lists the formulas.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from .functional import intermediate_proportion, path_depth

Statistics = dict[str, tuple[Tensor, Tensor]]


def process_set_statistics(sizes_BT: Tensor, group_size: int) -> Statistics:
    """Process-set metrics of whole groups, each of `group_size` consecutive completions."""
    depth_B = path_depth(sizes_BT, group_size)
    proportion_B = intermediate_proportion(sizes_BT)
    # Singletons and the whole group alone: no set size between them, so no depth.
    trivial_P = (depth_B.view(-1, group_size) == 0).all(1)
    return {
        "process_sets/size": _mean_where(sizes_BT, sizes_BT > 0),
        "process_sets/path_depth": _mean(depth_B),
        "process_sets/intermediate_proportion": _mean_where(proportion_B, ~proportion_B.isnan()),
        "process_sets/trivial_groups": _mean(trivial_P),
    }


def zero_variance_share(reward_N: Tensor, group_size: int) -> float:
    """Share of groups whose known rewards are all equal: they teach nothing."""
    groups = reward_N.view(-1, group_size)
    spread_P = groups.nan_to_num(-torch.inf).amax(1) - groups.nan_to_num(torch.inf).amin(1)
    return (spread_P <= 0).float().mean().item()


def gain_statistics(gains_BT: Tensor, mask_BT: Tensor) -> Statistics:
    """Token gain of the first, middle and last tenth (⌈n/10⌉ policy tokens) of a completion."""
    mask_BT = mask_BT.bool()
    rank_BT = mask_BT.cumsum(1) - 1
    n_B1 = mask_BT.sum(1, keepdim=True)
    tenth_B1 = (n_B1 + 9) // 10
    middle_B1 = (n_B1 - tenth_B1) // 2
    parts = {
        "first": rank_BT < tenth_B1,
        "middle": (rank_BT >= middle_B1) & (rank_BT < middle_B1 + tenth_B1),
        "last": rank_BT >= n_B1 - tenth_B1,
    }
    return {
        f"trace/gain_{name}_tenth": _mean_where(gains_BT, part_BT & mask_BT)
        for name, part_BT in parts.items()
    }


def traced_ratio_statistics(
    z_BT: Tensor, mask_BT: Tensor, *, limit: float, lower: float, upper: float
) -> Statistics:
    """How large the traced log-ratio is, and how often it meets the limits of the loss."""
    mask_BT, size_BT, ratio_BT = mask_BT.bool(), z_BT.abs(), z_BT.exp()
    outside_BT = (ratio_BT < lower) | (ratio_BT > upper)
    return {
        "trace/z_abs_mean": _mean_where(size_BT, mask_BT),
        "trace/z_clamped": _mean_where(size_BT > limit, mask_BT),
        "trace/ratio_clipped": _mean_where(outside_BT, mask_BT),
    }


def fork_statistics(entropy_BT: Tensor, fork_B: Tensor) -> Statistics:
    """The policy's mean entropy at forks, in nats: before the first token that a row has alone.

    Args:
        fork_B: from `Branches.forked_at`.
    """
    at_B1 = fork_B.clamp(min=0)[:, None]
    return {"rollout/fork_entropy": _mean_where(entropy_BT.gather(1, at_B1)[:, 0], fork_B >= 0)}


def means_over_processes(accelerator: Accelerator, statistics: Statistics) -> dict[str, float]:
    """sum/count over all processes in one reduction; NaN where nothing was counted."""
    totals = accelerator.reduce(_packed(statistics), reduction="sum")
    return dict(zip(statistics, (totals[:, 0] / totals[:, 1]).tolist(), strict=True))


def means_and_maximum(
    accelerator: Accelerator, statistics: Statistics, largest: Tensor
) -> tuple[dict[str, float], float]:
    """The means, and the largest value of any process, in one gather; NaN where all are masked."""
    packed = torch.cat([_packed(statistics).flatten(), largest[None]])
    gathered = accelerator.gather(packed[None])
    totals = gathered[:, :-1].sum(0).view(-1, 2)
    means = (totals[:, 0] / totals[:, 1]).tolist()
    counted = totals[0, 1] > 0
    maximum = torch.where(counted, gathered[:, -1].max(), torch.nan).item()
    return dict(zip(statistics, means, strict=True)), maximum


def _packed(statistics: Statistics) -> Tensor:
    return torch.stack([torch.stack(pair).float() for pair in statistics.values()])


def _mean(values: Tensor) -> tuple[Tensor, Tensor]:
    return _mean_where(values, torch.ones_like(values, dtype=torch.bool))


def _mean_where(values: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    return values.float().masked_fill(~where, 0.0).sum(), where.sum().float()
