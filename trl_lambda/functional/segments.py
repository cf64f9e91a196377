"""Credit by segments: a completion cut at the ends of its steps, and a value before each.

Shape suffixes: B completions, T completion positions, S segments. A completion of n policy tokens
is cut at 0 = b_0 < b_1 < … < b_m = n; segment k holds the policy tokens b_k … b_{k+1} − 1. With a
value V_k before each segment and the reward r after the last,

    δ_k = V_{k+1} − V_k,  V_m = r          A = Σ_{l ≥ k} c^(l−k) δ_l on every token of segment k

is generalised advantage estimation (Schulman et al., arXiv 1506.02438, eq. 16) over segments in the
place of tokens: Σ_k δ_k = r − V_0; c = 1 gives r − V_k; c = 0 gives δ_k; one segment gives r − V_0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .traces import Decay, TraceStyle, lambda_return


@dataclass(frozen=True)
class SegmentValues:
    """A critic's value before each segment, and the reward after the last.

    Attributes:
        value_BS: `(B, S)`, V_k; whatever stands past a row's last segment is not read.
        final_B: `(B,)`, V_m, the reward.
        used_B: `(B,)` bool, rows that are credited with these values; the others have δ = 0.
    """

    value_BS: Tensor
    final_B: Tensor
    used_B: Tensor


def segment_numbers(ends_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Number of the segment that each policy token is in.

    Args:
        ends_BT: `(B, T)`, nonzero where a segment ends. What ends on a masked token ends at the
            last policy token before it. The last policy token ends one in any case.
        mask_BT: `(B, T)`, nonzero on policy tokens.

    Returns:
        `(B, T)` int64: 0 … m−1 without a gap, and −1 on masked tokens.
    """
    mask_BT, ends_BT = mask_BT.bool(), ends_BT.bool().long()
    before_BT = ends_BT.cumsum(1) - ends_BT
    at_policy_BT = torch.where(mask_BT, before_BT, -1)
    # `before` never falls, so the running maximum is that of the last policy token.
    previous_BT = torch.nn.functional.pad(at_policy_BT.cummax(1)[0][:, :-1], (1, 0), value=-1)
    begins_BT = mask_BT & (previous_BT >= 0) & (before_BT > previous_BT)
    return begins_BT.long().cumsum(1).masked_fill(~mask_BT, -1)


def segment_counts(number_BT: Tensor) -> Tensor:
    """`(B,)`: segments of each row, 0 for one without policy tokens."""
    return number_BT.amax(1) + 1


def segment_starts(number_BT: Tensor) -> Tensor:
    """`(B, T)` int64: the position of the first token of segment k at column k; T past the last."""
    B, T = number_BT.shape
    slot_BT, position_BT = _slots(number_BT), torch.arange(T, device=number_BT.device)
    starts = torch.full((B, T + 1), T, device=number_BT.device)
    return starts.scatter_reduce(1, slot_BT, position_BT.expand(B, T), "amin")[:, :T]


def values_with_children(
    values: SegmentValues, number_BT: Tensor, children_BT: Tensor, tree_value_BT1: Tensor
) -> SegmentValues:
    """V of a prefix that was forked: the mean of the critic's and the children's.

    The critic counts as one more child, and a row's own branch is left out: what is subtracted from
    a reward does not know it, so that c = 1 stays unbiased.

    Args:
        values: the critic's.
        number_BT: `(B, T)` from `segment_numbers`.
        children_BT: `(B, T)`, from `Branches.children`.
        tree_value_BT1: `(B, T+1)`, V of each prefix as the mean of its children; NaN is unknown.

    Returns:
        The critic's where nothing was forked, the children are unknown, or rows do not use it.

    Source: ours.
    """
    value_BS, T = values.value_BS, number_BT.shape[1]
    start_BT = segment_starts(number_BT)
    at_BT = start_BT.clamp(max=T - 1)
    count_BT = children_BT.gather(1, at_BT).masked_fill(start_BT == T, 1)
    of_all_BT = count_BT * tree_value_BT1.gather(1, at_BT)
    others_BT = of_all_BT - tree_value_BT1.gather(1, at_BT + 1)
    S = min(value_BS.shape[1], T)
    critic_BS = value_BS[:, :S]
    mixed_BS = (critic_BS + others_BT[:, :S].to(value_BS)) / count_BT[:, :S]
    forked_BS = (count_BT[:, :S] > 1) & ~mixed_BS.isnan() & values.used_B[:, None]
    value_BS = torch.cat([torch.where(forked_BS, mixed_BS, critic_BS), value_BS[:, S:]], 1)
    return replace(values, value_BS=value_BS)


def segment_td_errors(values: SegmentValues, number_BT: Tensor, denominator_B: Tensor) -> Tensor:
    """(V_{k+1} − V_k)/std on the last policy token of segment k, 0 elsewhere.

    Args:
        values: V before each segment, and the reward.
        number_BT: `(B, T)` from `segment_numbers`, of at most S segments a row.
        denominator_B: `(B,)`, the denominator of the advantage (`reward_denominator`); a row where
            it is infinite gives 0.

    Returns:
        `(B, T)` in the dtype of the values.

    Source: the λ-return is Schulman et al., arXiv 1506.02438; V at segments is ours.
    """
    (B, T), value_BS = number_BT.shape, values.value_BS
    count_B1 = segment_counts(number_BT)[:, None]
    k_S = torch.arange(value_BS.shape[1], device=number_BT.device)
    next_BS = torch.nn.functional.pad(value_BS[:, 1:], (0, 1))
    next_BS = torch.where(k_S == count_B1 - 1, values.final_B[:, None].to(value_BS.dtype), next_BS)
    delta_BS = (next_BS - value_BS) / denominator_B[:, None].to(value_BS.dtype)
    unused_B = ~values.used_B | denominator_B.isinf()
    delta_BS = delta_BS.masked_fill((k_S >= count_B1) | unused_B[:, None], 0.0)
    position_BT = torch.arange(T, device=number_BT.device).expand(B, T)
    last_BT1 = torch.zeros((B, T + 1), dtype=torch.int64, device=number_BT.device)
    last_BT1 = last_BT1.scatter_reduce(1, _slots(number_BT), position_BT, "amax")
    last_BS = last_BT1[:, : value_BS.shape[1]]
    # Past the last segment zeros are added to the first token.
    return value_BS.new_zeros(B, T).scatter_add(1, last_BS, delta_BS[:, : last_BS.shape[1]])


def segment_lambda_return(
    td_errors_BT: Tensor,
    number_BT: Tensor,
    *,
    decay: Decay,
    style: TraceStyle = "recent",
    normalize: bool = False,
) -> Tensor:
    """λ-return whose decay counts segments: `lambda_return` of the segments' sums of δ.

    `recent` is A = Σ_{l ≥ k} c^(l−k) δ_l on every token of segment k, where δ_l is the sum over
    segment l. With c = 1 and each δ on the last token of its segment it equals `lambda_return`.

    Args:
        td_errors_BT: `(B, T)`, any floating dtype; ignored at masked positions.
        number_BT: `(B, T)` from `segment_numbers`.
        decay: c in [0, 1] per segment, or `(B,)`, one for each row.
        style, normalize: as in `lambda_return`, over segments.

    Returns:
        `(B, T)` in float32 or the wider dtype of `td_errors_BT`; exactly 0 at masked positions.
    """
    (B, T), slot_BT = number_BT.shape, _slots(number_BT)
    kept_BT = td_errors_BT.masked_fill(number_BT < 0, 0.0)
    delta_BT1 = kept_BT.new_zeros(B, T + 1).scatter_add(1, slot_BT, kept_BT)
    exists_BT = torch.arange(T, device=number_BT.device) < segment_counts(number_BT)[:, None]
    return_BT = lambda_return(
        delta_BT1[:, :T], exists_BT, decay=decay, style=style, normalize=normalize
    )
    padded_BT1 = torch.nn.functional.pad(return_BT, (0, 1))
    return padded_BT1.gather(1, slot_BT).masked_fill(number_BT < 0, 0.0)


def _slots(number_BT: Tensor) -> Tensor:
    """Segment numbers as columns; T, a column that nobody reads, where masked."""
    return torch.where(number_BT >= 0, number_BT, number_BT.shape[1])
