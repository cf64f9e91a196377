"""Sibling baselines: a token is compared with the completions that did otherwise right there.

Shape suffixes: B completions, T completion positions, E stretches between lengths at which some
process set splits (see `process_sets`). Where the rows that share y_<t part at t, each is compared
with those that took another token; the tokens after it keep that baseline until the next parting.
With κ = `shrinkage` rows of the baseline before,

    b[i, t] = ( Σ_j r_j + κ·b[i, t−1] ) / ( n + κ )

over the n rows j that share y_<t with row i but not y_t, where there are any; b[i, t−1] elsewhere.

That is a linear recurrence along the stretches, solved by doubling: time is O(B·E·log E + B·T), no
loop runs over tokens. Sums are taken in float64 (float32 on devices without it): rows that all have
one reward get exactly that reward as their baseline in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .normalization import summable_scale
from .process_sets import Averaging, PrefixSets, opens_set, set_values, sum_over_sets


def sibling_baselines(
    rewards_B: Tensor,
    sets: PrefixSets,
    *,
    shrinkage: float = 1.0,
    initial_B: Tensor | None = None,
) -> Tensor:
    """Baseline b of each token, from the rows that share what stands before it and part there.

    κ → ∞ keeps b[i, −1] everywhere (the group's mean: GRPO). κ = 0 takes siblings alone: a group
    whose first tokens all differ gets the mean of the others (RLOO), and rows whose prefix and
    whose siblings have one reward get it as their baseline.

    Which rows count:

    - The end is an outcome of its own: a row of n tokens parts from one that goes on, at n.
    - A row whose reward is NaN is nobody's sibling, and leaves the group's mean.
    - A row of length 0 (masked out as truncated, say) is nobody's sibling, but its reward is part
      of the group's mean, as in `prefix_values`.
    - Environment tokens are tokens: rows part at them too.

    Two things tilt the mean gradient. By equal tokens the rows that part from row i are picked by
    y_t, so the baseline depends on the very action that it judges; by branch ids it does not. And
    the mean of a branched group holds the rows that share row i's own tokens, so these earn less:
    start from `root_baselines` there. With both it is the gradient of independent samples, for
    every κ, if forks are placed without hindsight.

    Args:
        rewards_B: `(B,)`, floating point, NaN where a reward abstains.
        sets: `prefix_sets(…)` (equal tokens) or `branch_sets(…)` (branch ids) of whole groups.
        shrinkage: κ in [0, ∞]: how many rows the baseline before a parting counts for.
        initial_B: `(B,)`: b[i, −1]; NaN counts as 0. By default the mean of all that share the
            empty prefix, 0 where no reward is known. Where prompts differ within a group that set
            is not the group (`split_groups_by_prompt`): pass `group_mean` of the nominal groups.
            For a branched group pass `root_baselines`.

    Returns:
        `(B, T)` in float32 or the wider dtype of `rewards_B`; finite everywhere. Past the end of a
        completion its last baseline stands.

    Raises:
        ValueError: rewards that are not `(B,)` floating point, an initial_B that is not `(B,)`, a
            shrinkage outside [0, ∞].

    Source: ours; without any overlap RLOO, arXiv 2402.14740, with κ = 0.
    """
    sets.check_rewards(rewards_B, where="sibling_baselines")
    _check_shrinkage(shrinkage, where="sibling_baselines")
    if initial_B is not None and initial_B.shape != rewards_B.shape:
        raise ValueError(
            f"sibling_baselines: initial_B must have shape {tuple(rewards_B.shape)}, got "
            f"{tuple(initial_B.shape)}."
        )
    rewards = _Rewards(rewards_B, sets)
    if initial_B is None:
        start_B = rewards.mean_of_groups()
    else:
        start_B = initial_B.nan_to_num(0.0).to(rewards.reward_B.dtype)[sets.order_B] * rewards.scale
    baseline_BE = _baselines(start_B, *rewards.siblings("leaves"), shrinkage)
    return sets.right_after_tokens(rewards.narrow(baseline_BE))


def sibling_gains(
    rewards_B: Tensor,
    sets: PrefixSets,
    *,
    shrinkage: float = 1.0,
    initial_B: Tensor | None = None,
) -> Tensor:
    """r − b of each token, not yet divided by a deviation; 0 where the reward abstains.

    Arguments, shapes and errors are those of `sibling_baselines`.
    """
    baseline_BT = sibling_baselines(rewards_B, sets, shrinkage=shrinkage, initial_B=initial_B)
    return (rewards_B[:, None].to(baseline_BT.dtype) - baseline_BT).nan_to_num(0.0)


def root_baselines(
    rewards_B: Tensor, sets: PrefixSets, *, values: Averaging = "children"
) -> Tensor:
    """b_i = mean_{j≠i} V_j: the mean of the other roots, the baseline of tokens before any fork.

    Without forks it is the leave-one-out mean of the group. Where no other root with a reward is
    there it is V_i itself (0 if there is none).

    Args:
        rewards_B: `(B,)`, floating point, NaN where a reward abstains.
        sets: `branch_sets(…)` of whole groups.
        values: `"children"` (each root counts once) or `"leaves"` (each completion does).

    Returns:
        `(B,)` in float32 or the wider dtype of `rewards_B`.

    Raises:
        ValueError: rewards that are not `(B,)` floating point, an unknown averaging.

    Source: ours; without forks RLOO, arXiv 2402.14740.
    """
    sets.check_rewards(rewards_B, where="root_baselines")
    rewards = _Rewards(rewards_B, sets)
    baseline_B = _root_baselines(rewards, *rewards.siblings(values), values)
    return sets.in_caller_order(rewards.narrow(baseline_B))


def branch_advantages(
    rewards_B: Tensor,
    sets: PrefixSets,
    *,
    shrinkage: float = 1.0,
    values: Averaging = "children",
) -> Tensor:
    """Credit V − b of each token of a branched group, not yet divided by a deviation.

    V is the mean of what continues the token, so completions that share a token share its credit.
    For K roots, each continued M ways from its fork,

        before the fork:  A = V_i − b_i           V_i = mean_m r_im,  b_i = mean_{j≠i} V_j
        after it:         A = r_im − ( Σ_{n≠m} r_in + κ·b_i ) / ( M − 1 + κ )

    and in general, at each fork of a tree, a child c with siblings n ≠ c under the stretch v gets
    b_c = (Σ_{n≠c} V_n + κ·b_v)/(M_v − 1 + κ): where a root was forked at several tokens, the fork
    and what the root goes on with are siblings at each. Without forks it is RLOO (K = 1: zeros);
    κ → ∞ keeps the root's baseline; κ = 0 makes the credit of siblings sum to 0.

    Averages by `"children"` let each child of a fork count once, whatever hangs on it, as the
    policy would have it; by `"leaves"` each completion counts once (and κ is counted in
    completions). Rewards that are NaN and completions of length 0 leave every average; tokens that
    nobody with a reward continues get 0.

    Args:
        rewards_B: `(B,)`, floating point, NaN where a reward abstains.
        sets: `branch_sets(…)` of whole groups.
        shrinkage: κ in [0, ∞]: how many siblings the baseline before a fork counts for.
        values: `"children"` or `"leaves"`.

    Returns:
        `(B, T)` in float32 or the wider dtype of `rewards_B`; finite everywhere. Past the end of a
        completion its last credit stands.

    Raises:
        ValueError: rewards that are not `(B,)` floating point, a shrinkage outside [0, ∞], an
            unknown averaging.

    Source: ours; without forks RLOO, arXiv 2402.14740.
    """
    sets.check_rewards(rewards_B, where="branch_advantages")
    _check_shrinkage(shrinkage, where="branch_advantages")
    rewards = _Rewards(rewards_B, sets)
    number_BE, total_BE = rewards.siblings(values)
    start_B = _root_baselines(rewards, number_BE, total_BE, values)
    baseline_BE = _baselines(start_B, number_BE, total_BE, shrinkage)
    value_BE, known_BE = rewards.values(values)
    gain_BE = torch.where(known_BE, value_BE - baseline_BE, 0.0)
    return sets.right_after_tokens(rewards.narrow(gain_BE))


class _Rewards:
    """The rewards of whole groups in the sorted order of their sets, in a wide dtype.

    They are scaled so that they can be added up: `narrow` gives results the scale and dtype back.
    """

    def __init__(self, rewards_B: Tensor, sets: PrefixSets):
        self.dtype = torch.promote_types(rewards_B.dtype, torch.float32)
        wide = self.dtype if rewards_B.device.type == "mps" else torch.float64
        self.set_BE = sets.set_BE
        self.known_B = ~rewards_B.isnan()[sets.order_B]
        reward_B = rewards_B.nan_to_num(0.0).to(wide)[sets.order_B]
        self.scale = summable_scale(reward_B)
        self.reward_B = reward_B * self.scale
        self.counted_B = self.known_B & (sets.lengths_B > 0)[sets.order_B]

    def narrow(self, result: Tensor) -> Tensor:
        return (result / self.scale).to(self.dtype)

    def values(self, averaging: Averaging) -> tuple[Tensor, Tensor]:
        return set_values(self.set_BE, self.reward_B, self.counted_B, averaging)

    def mean_of_groups(self) -> Tensor:
        """`(B,)`: mean of all that share the empty prefix, completions of length 0 included."""
        return set_values(self.set_BE, self.reward_B, self.known_B, "leaves")[0][:, 0]

    def siblings(self, averaging: Averaging) -> tuple[Tensor, Tensor]:
        """Number and sum of what parts from a row between stretch e and e + 1, `(B, E−1)` each.

        The units are completions, or the sets into which a set splits.
        """
        if averaging == "leaves":
            known_BE = self.counted_B[:, None].expand(self.set_BE.shape)
            value_BE = self.reward_B[:, None].expand(self.set_BE.shape)
        else:
            value_BE, known_BE = self.values(averaging)
            known_BE = known_BE & opens_set(self.set_BE)
        before_BE, after_BE = self.set_BE[:, :-1], self.set_BE[:, 1:]
        unit_BE = known_BE[:, 1:].to(value_BE.dtype)
        worth_BE = torch.where(known_BE, value_BE, 0.0)[:, 1:]
        number_BE = sum_over_sets(before_BE, unit_BE) - sum_over_sets(after_BE, unit_BE)
        total_BE = sum_over_sets(before_BE, worth_BE) - sum_over_sets(after_BE, worth_BE)
        return number_BE, total_BE


def _root_baselines(
    rewards: _Rewards, number_BE: Tensor, total_BE: Tensor, values: Averaging
) -> Tensor:
    """Roots have nothing to shrink to: the mean of the others alone, where there are any."""
    # The empty prefix has a stretch of its own, so what parts behind it parts at token 0.
    others_B = total_BE[:, 0] / number_BE[:, 0].clamp(min=1.0)
    return torch.where(number_BE[:, 0] > 0, others_B, rewards.values(values)[0][:, 0])


def _baselines(start_B: Tensor, number_BE: Tensor, total_BE: Tensor, shrinkage: float) -> Tensor:
    """`(B, E)`: b in each stretch, by doubling: b_e = keep_e·b_{e−1} + (1 − keep_e)·mean_e."""
    parts_BE = number_BE > 0
    # κ = ∞ moves nothing, κ = 0 takes the siblings' mean exactly; 0/0 is never read.
    gain_BE = torch.where(parts_BE, number_BE / (number_BE + shrinkage), 0.0)
    mean_BE = total_BE / number_BE.clamp(min=1.0)
    keep_BE = torch.cat([torch.zeros_like(start_B)[:, None], 1.0 - gain_BE], 1)
    baseline_BE = torch.cat([start_B[:, None], gain_BE * mean_BE], 1)
    step = 1
    while step < keep_BE.shape[1]:
        moved_BE = keep_BE[:, step:] * baseline_BE[:, :-step]
        baseline_BE = torch.cat([baseline_BE[:, :step], baseline_BE[:, step:] + moved_BE], 1)
        kept_BE = keep_BE[:, step:] * keep_BE[:, :-step]
        keep_BE = torch.cat([keep_BE[:, :step], kept_BE], 1)
        step *= 2
    return baseline_BE


def _check_shrinkage(shrinkage: float, *, where: str) -> None:
    if math.isnan(shrinkage) or shrinkage < 0:
        raise ValueError(f"{where}: shrinkage (κ) must lie in [0, ∞], got {shrinkage}.")
