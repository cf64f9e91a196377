"""TD errors δ: what each token newly tells about the reward.

Shape suffixes: B completions, T completion positions, S steps of all completions together. The
fourth TD error of the method, `group`, is the group-normalised reward on every token and needs no
function. δ is 0 on masked tokens throughout, and carries no γ (γ enters through the decay of W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .normalization import Scale, group_mean, reward_denominator
from .segments import segment_numbers

StepRewards = Sequence[tuple[int, float]]
"""The steps of one completion: (index of the token that ends the step, its reward)."""


def terminal_td_errors(advantages_B: Tensor, mask_BT: Tensor) -> Tensor:
    """The advantage on the last policy token, 0 elsewhere: a critic V = 0.

    With `lambda_return` this is the λ-return of an outcome reward, A·c^(n−1−k) for `recent`.

    Args:
        advantages_B: `(B,)`, floating point.
        mask_BT: `(B, T)`, nonzero on policy tokens.

    Returns:
        `(B, T)` in the dtype of `advantages_B`; all 0 for a row without policy tokens.

    Source: Schulman et al., arXiv 1506.02438, eq. 16 with V = 0.
    """
    mask_BT = mask_BT.bool()
    is_last_BT = mask_BT & (mask_BT.cumsum(1) == mask_BT.sum(1, keepdim=True))
    return torch.where(is_last_BT, advantages_B[:, None], 0.0)


def tree_td_errors(values_BT1: Tensor, mask_BT: Tensor, denominator_B: Tensor) -> Tensor:
    """(V right after the token − V right before it) / std: the induced process reward as a critic.

    Once a prefix belongs to one completion alone the error is 0. What the environment adds between
    policy tokens changes V too, but is credited to nobody.

    Args:
        values_BT1: `(B, T+1)` from `prefix_values`.
        mask_BT: `(B, T)`, nonzero on policy tokens.
        denominator_B: `(B,)`, the very denominator of the advantage (`reward_denominator`).

    Returns:
        `(B, T)` in the dtype of `values_BT1`.

    Raises:
        ValueError: values that are not one column wider than the mask.

    Source: TEMPO, arXiv 2509.18314, section 3.
    """
    B, T = mask_BT.shape
    if values_BT1.shape != (B, T + 1):
        raise ValueError(
            f"tree_td_errors: values must be (B, T+1) = {(B, T + 1)} for a mask of shape {(B, T)}, "
            f"got {tuple(values_BT1.shape)}."
        )
    delta_BT = values_BT1.diff(dim=1) / denominator_B[:, None]
    # Also where the difference overflows: what is divided by an infinite denominator is 0.
    untaught_BT = ~mask_BT.bool() | denominator_B.isinf()[:, None]
    return delta_BT.masked_fill(untaught_BT, 0.0)


def step_td_errors(
    steps: Sequence[StepRewards | None],
    mask_BT: Tensor,
    group_ids_B: Tensor,
    *,
    scale: Scale = "group",
) -> Tensor:
    """Step rewards, normalised over all steps of the group, at the tokens that end the steps.

    r̃ = (r − mean)/(std + 1e-4) over all steps of all completions of the group; 0 if the group has
    a single step. Steps that end on the same token add up. A step that ends on a masked token ends
    at the last policy token before it (nowhere, if there is none).

    Args:
        steps: for each of the B completions its steps as (index of the token that ends the step,
            reward), or None where the reward model abstains.
        mask_BT: `(B, T)`, nonzero on policy tokens.
        group_ids_B: `(B,)`, integer.
        scale: `"group"`; `"batch"` divides by the deviation of all steps of the batch; `"none"`
            does not divide.

    Returns:
        `(B, T)` float32 (float64 for a float64 mask).

    Raises:
        ValueError: another number of rows than B, an end outside [0, T), a reward that is not
            finite.

    Source: GRPO, arXiv 2402.03300, section 4.1.3.
    """
    B, T = mask_BT.shape
    if not len(steps) == group_ids_B.shape[0] == B:
        raise ValueError(
            f"step_td_errors: steps, mask and group_ids must have the same number of rows, got "
            f"{len(steps)}, {B} and {group_ids_B.shape[0]}."
        )
    check_steps(steps, [T] * B, where="step_td_errors")
    dtype = torch.promote_types(mask_BT.dtype, torch.float32)
    normalized = normalize_steps(steps, group_ids_B, scale=scale, dtype=dtype)
    return place_steps(normalized, mask_BT)


@dataclass(frozen=True)
class Steps:
    """The steps of several completions, flat: `row_S`, `end_S` (int64) and `value_S`."""

    row_S: Tensor
    end_S: Tensor
    value_S: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Steps]) -> Steps:
        """The steps of several sources over the same rows."""
        return cls(
            torch.cat([part.row_S for part in parts]),
            torch.cat([part.end_S for part in parts]),
            torch.cat([part.value_S for part in parts]),
        )

    def rows(self, rows: slice) -> Steps:
        """The steps of consecutive rows start … stop−1, renumbered from 0."""
        keep = (self.row_S >= rows.start) & (self.row_S < rows.stop)
        return Steps(self.row_S[keep] - rows.start, self.end_S[keep], self.value_S[keep])


def check_steps(steps: Sequence[StepRewards | None], lengths: Sequence[int], *, where: str) -> None:
    """Raises ValueError, naming `where` and the row, for a step that cannot be one."""
    for row, (row_steps, length) in enumerate(zip(steps, lengths, strict=True)):
        for end, reward in row_steps or ():
            if not 0 <= end < length:
                raise ValueError(
                    f"{where}: completion {row} has {length} tokens, so a step must end at a token "
                    f"index in [0, {length}), got {end}."
                )
            if not math.isfinite(reward):
                raise ValueError(
                    f"{where}: the step of completion {row} that ends at token {end} has the "
                    f"reward {reward}; step rewards must be finite (return None for a completion "
                    "to abstain)."
                )


def normalize_steps(
    steps: Sequence[StepRewards | None],
    group_ids_B: Tensor,
    *,
    scale: Scale,
    dtype: torch.dtype = torch.float32,
) -> Steps:
    """The normalisation of `step_td_errors` alone; needs whole groups, but no mask."""
    device = group_ids_B.device
    flat = [(row, end, r) for row, own in enumerate(steps) for end, r in own or ()]
    row_S = torch.tensor([row for row, _, _ in flat], dtype=torch.int64, device=device)
    end_S = torch.tensor([end for _, end, _ in flat], dtype=torch.int64, device=device)
    reward_S = torch.tensor([reward for _, _, reward in flat], dtype=dtype, device=device)
    group_S = group_ids_B[row_S]
    centred_S = reward_S - group_mean(reward_S, group_S)
    return Steps(row_S, end_S, centred_S / reward_denominator(reward_S, group_S, scale=scale))


def step_segments(steps: Steps, mask_BT: Tensor) -> Tensor:
    """Number of the step that each policy token is in, `(B, T)` int64 (`segment_numbers`).

    What follows the last step's end is one more.
    """
    ends_BT = torch.zeros(mask_BT.shape, dtype=torch.bool, device=mask_BT.device)
    ends_BT[steps.row_S, steps.end_S] = True
    return segment_numbers(ends_BT, mask_BT)


def place_steps(steps: Steps, mask_BT: Tensor) -> Tensor:
    """The placement of `step_td_errors` alone: flat steps onto policy tokens, `(B, T)`."""
    T = mask_BT.shape[1]
    positions_T = torch.arange(T, device=mask_BT.device)
    last_policy_BT = torch.where(mask_BT.bool(), positions_T, -1).cummax(1)[0]
    end_S = last_policy_BT[steps.row_S, steps.end_S]
    value_S = torch.where(end_S >= 0, steps.value_S, 0.0)
    delta_BT = torch.zeros(mask_BT.shape, dtype=value_S.dtype, device=mask_BT.device)
    return delta_BT.index_put_((steps.row_S, end_S.clamp(min=0)), value_S, accumulate=True)
