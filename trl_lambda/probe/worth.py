"""The worth of a probe: how well its values tell completions with high rewards from others.

Shape suffixes: N completions, K segments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 10  # equally filled, for the calibration error
RECENT = 20  # batches whose pairs count together


@dataclass(frozen=True)
class SegmentWorth:
    """The AUC of the values before one segment.

    Attributes:
        segment: its number.
        auc: over all pairs of a high and a low reward; NaN where there is none.
        auc_within: over pairs of one group alone.
        rows: completions with a value there.
        pairs_within: pairs of one group.
    """

    segment: int
    auc: float
    auc_within: float
    rows: int
    pairs_within: int


def auc_by_segment(
    values_NK: Tensor | Sequence[Sequence[float]],
    rewards_N: Tensor | Sequence[float],
    groups_N: Tensor | Sequence[int],
) -> list[SegmentWorth]:
    """AUC before each segment, over all rows and within groups.

    A value that tells easy prompts from hard ones, and knows nothing of a completion, has a high
    AUC over all rows and 0.5 within groups: only the latter is of use to credit.

    Args:
        values_NK: Φ_k or V_k (any increasing function of it); NaN, or a shorter row, where there is
            no segment k.
        rewards_N: NaN where unknown.
        groups_N: number of each completion's group.
    """
    values, rewards = _rectangle(values_NK), torch.as_tensor(rewards_N).double()
    groups = torch.as_tensor(groups_N)
    worth = []
    for segment, value_N in enumerate(values.unbind(1)):
        there = ~value_N.isnan() & ~rewards.isnan()
        high = is_high(rewards)
        wins, pairs = concordance_within(value_N[there], high[there], groups[there])
        worth.append(
            SegmentWorth(
                segment=segment,
                auc=auc(value_N[there], high[there]),
                auc_within=wins / pairs if pairs else float("nan"),
                rows=int(there.sum()),
                pairs_within=pairs,
            )
        )
    return worth


class RecentAuc:
    """The AUC over the pairs of the last batches; a single batch has too few pairs to tell.

    With 6 of 32 completions right, a probe that knows nothing has an AUC of 0.6 or more in a fifth
    of its batches.
    """

    def __init__(self) -> None:
        self._pairs: deque[tuple[float, int]] = deque(maxlen=RECENT)

    def add(self, wins: float, pairs: int) -> float:
        """A batch joins, if it has pairs; the AUC, NaN before there are `RECENT` batches."""
        if pairs:
            self._pairs.append((wins, pairs))
        if len(self._pairs) < RECENT:
            return float("nan")
        total = [sum(column) for column in zip(*self._pairs, strict=True)]
        return total[0] / total[1]

    def state(self) -> list[tuple[float, int]]:
        """For a checkpoint."""
        return list(self._pairs)

    def restore(self, state: Sequence[tuple[float, int]]) -> None:
        """Goes on from what `state` returned."""
        self._pairs = deque(state, maxlen=RECENT)


def auc(value_N: Tensor, high_N: Tensor) -> float:
    """Share of (high, low) pairs in which the high one has the larger value; ties count half.

    NaN where there is no pair.
    """
    wins, pairs = concordance(value_N, high_N)
    return wins / pairs if pairs else float("nan")


def concordance(value_N: Tensor, high_N: Tensor) -> tuple[float, int]:
    """(pairs won, ties as halves; number of pairs), by sorting."""
    high, low = value_N[high_N], value_N[~high_N].sort()[0].contiguous()
    below = torch.searchsorted(low, high.contiguous(), right=False)
    not_above = torch.searchsorted(low, high.contiguous(), right=True)
    return (below + not_above).double().sum().item() / 2, len(high) * len(low)


def concordance_within(value_N: Tensor, high_N: Tensor, group_N: Tensor) -> tuple[float, int]:
    """`concordance` over pairs of one group alone."""
    wins, pairs = 0.0, 0
    for group in group_N.unique().tolist():
        own_N = group_N == group
        won, of = concordance(value_N[own_N], high_N[own_N])
        wins, pairs = wins + won, pairs + of
    return wins, pairs


def is_high(reward_N: Tensor) -> Tensor:
    """Whether a reward is at the median or above; above it, where none is below. NaN is not."""
    median = reward_N.nanquantile(0.5) if (~reward_N.isnan()).any() else torch.tensor(torch.nan)
    high_N = reward_N >= median
    all_high = high_N[~reward_N.isnan()].all()
    return (reward_N > median) if all_high else high_N


def calibration_error(value_N: Tensor, reward_N: Tensor) -> float:
    """Mean distance of predicted and observed rewards over ten equally filled bins; NaN if empty.

    Σ_b (n_b/n)·|mean V − mean r|: the expected calibration error.

    Source: Naeini et al., AAAI 2015, with bins of equal mass.
    """
    if not len(value_N):
        return float("nan")
    order = value_N.argsort(stable=True)
    parts = [part for part in order.tensor_split(BINS) if len(part)]
    apart = [(value_N[p].mean() - reward_N[p].mean()).abs() * len(p) for p in parts]
    return (sum(apart) / len(value_N)).item()


def _rectangle(values: Tensor | Sequence[Sequence[float]]) -> Tensor:
    if isinstance(values, Tensor):
        return values.double()
    width = max(map(len, values), default=0)
    rows = [[*row, *[float("nan")] * (width - len(row))] for row in values]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(values), width)
