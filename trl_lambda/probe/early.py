"""Pairs of a batch's probes before the last quarter of its completions.

Shape suffixes: N completions of all processes, K segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .calibration import Observed
from .worth import concordance, concordance_within, is_high


def told(seen: Observed) -> tuple[Tensor, Tensor, Tensor]:
    """Which segments have a probe and a reward, what it says, and whether the reward is high."""
    known_NK = ~seen.log_phi_NK.isnan() & ~seen.reward_N.isnan()[:, None]
    high_N = is_high(seen.reward_N.masked_fill(~known_NK.any(1), torch.nan))
    # Equal prefixes have equal values, whatever a forward pass makes of their last digits.
    told_NK = seen.log_phi_NK.round(decimals=4)
    return known_NK, told_NK, high_N[:, None].expand(known_NK.shape)


@dataclass(frozen=True)
class EarlyPairs:
    """Pairs before the last quarter, (won, all of them).

    Attributes:
        all_pairs: pairs of all segments there.
        within_groups: pairs of one group at the same segment; at the first segment none,
            because all completions of a group are alike before it.
    """

    all_pairs: tuple[float, int]
    within_groups: tuple[float, int]

    def metrics(self) -> dict[str, float]:
        """By name; what has no pair is left out."""
        named = {
            "probe/auc_before_last_quarter": self.all_pairs,
            "probe/auc_within_groups": self.within_groups,
        }
        return {name: wins / pairs for name, (wins, pairs) in named.items() if pairs}


def early_pairs(seen: Observed, share_NK: Tensor) -> EarlyPairs:
    """The pairs of a batch.

    Args:
        share_NK: b_k/n, where each segment begins.
    """
    known_NK, told_NK, high_NK = told(seen)
    early_NK = known_NK & (4 * share_NK < 3)
    # A number for each segment of each group; the first segment's pairs are left out.
    segments = early_NK.shape[1]
    pool_NK = seen.group_N[:, None] * segments + torch.arange(segments)
    later_NK = early_NK & (torch.arange(segments) > 0)
    return EarlyPairs(
        concordance(told_NK[early_NK], high_NK[early_NK]),
        concordance_within(told_NK[later_NK], high_NK[later_NK], pool_NK[later_NK]),
    )
