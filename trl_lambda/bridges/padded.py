"""The credit of a padded batch of whole groups, whatever engine keeps it: torch alone.

Shape suffixes: B completions, T completion positions, P prompt positions.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..credit import Credit, Signal, assign_credit
from ..functional import (
    PrefixSets,
    group_mean,
    prefix_sets,
    reward_denominator,
    sibling_gains,
    split_groups_by_prompt,
)
from ..functional.normalization import Scale
from ..functional.td_errors import (
    StepRewards,
    Steps,
    check_steps,
    normalize_steps,
    step_segments,
)
from ..methods import CREDIT_OPTIONS
from ..rule import CreditRule, resolve

# Their meanings and defaults are `LambdaGRPOConfig`'s. The engine may have a `scale_rewards` of its
# own; the loss is the engine's.
BRIDGE_OPTIONS = ("method", *CREDIT_OPTIONS, "scale_rewards")


@dataclass(frozen=True)
class BridgeRule:
    """How credit is assigned, and what centred rewards are divided by."""

    credit: CreditRule
    scale: Scale


@dataclass(frozen=True)
class TokenIds:
    """The tokens that process sets and `tree` are made of.

    Attributes:
        completion_ids_BT: `(B, T)`, integer; all tokens of the completion, tool tokens too.
        lengths_B: `(B,)`, integer, how many of them there are.
        prompt_ids_BP: `(B, P)`, integer, −1 where padded, all on the same side.
    """

    completion_ids_BT: Tensor
    lengths_B: Tensor
    prompt_ids_BP: Tensor


def read_rule(
    td_error: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    scale: Scale = "group",
) -> BridgeRule:
    """The rule that an engine's options spell.

    Args:
        td_error: as in `LambdaGRPOConfig`; None for the method's.
        options: any of `BRIDGE_OPTIONS`; None is unset.
        scale: `scale_rewards` where neither the options nor the method say it.

    Raises:
        ValueError: an unknown option, a value out of range, or a combination that means nothing;
            the message names the option, its value and the remedy.
    """
    given = dict(options or {})
    if td_error is not None:
        given["td_error"] = td_error
    try:
        method = resolve(given)
        if method.branching is not None:
            raise ValueError(
                f"method={method.name!r} generates branched groups, and here the engine generates; "
                "set td_error='sibling' for its credit."
            )
        if method.credit.entry.probes:
            raise ValueError(
                "td_error='probe' asks the policy how likely the known answer is after each "
                "prefix, and an engine hands an advantage estimator no policy to ask. Train with "
                "LambdaGRPOTrainer, or choose another td_error."
            )
        if method.credit.traces_ratio:
            raise ValueError(
                f"trace_mode='ratio' (method={method.name!r}): it traces the log-ratio inside the "
                "loss, which is the engine's; use 'advantage', which has the same gradient at the "
                "policy that sampled."
            )
    except ValueError as error:
        raise ValueError(f"trl_lambda: {error}") from None
    return BridgeRule(credit=method.credit, scale=method.scale_rewards or scale)


def padded_credit(
    rule: BridgeRule,
    rewards_BT: Tensor,
    mask_BT: Tensor,
    groups: Iterable[Hashable],
    *,
    tokens: TokenIds | None = None,
    steps: Sequence[StepRewards | None] | None = None,
    ignored_B: Tensor | None = None,
) -> Credit:
    """Credit of every token of a batch of whole groups.

    The same numbers as `LambdaGRPOTrainer`'s for the same tokens and rewards: A_i is the reward
    minus the mean of its group, over the standard deviation + 1e-4 (`scale`), and 0 for a group of
    one. A row that is masked out entirely is in no process set, and counts in its group's mean.

    Args:
        rule: from `read_rule`.
        rewards_BT: `(B, T)`, floating point. A row's sum is its outcome reward. For `process`
            without `steps` each entry that is not 0 is a step that ends there.
        mask_BT: `(B, T)`, nonzero on policy tokens.
        groups: B names of groups, in any order: whatever compares equal is one group.
        tokens: needed for process sets and `tree`.
        steps: for `process`, each row's (index of the token that ends the step, reward) or None;
            then `rewards_BT` is not trained on.
        ignored_B: `(B,)` bool, rows that are no completions (an engine's filler).

    Raises:
        ValueError: tensors that do not fit, a missing argument, or steps that cannot be.
    """
    mask_BT = mask_BT.bool()
    _check_shapes(rewards_BT, mask_BT)
    group_ids_B = _number_groups(groups, mask_BT)
    _check_fit(mask_BT, tokens, ignored_B)
    rewards_BT = rewards_BT.to(torch.promote_types(rewards_BT.dtype, torch.float32))
    if ignored_B is None:
        ignored_B = torch.zeros_like(mask_BT[:, 0])
    # Nothing is learnt from, and no mean knows of, a reward that is NaN.
    reward_B = rewards_BT.sum(1).masked_fill(ignored_B, torch.nan)
    if reward_B.isinf().any():
        row = int(reward_B.isinf().nonzero()[0])
        raise ValueError(
            f"trl_lambda: the reward of completion {row} is {reward_B[row].item()}; rewards must "
            "be finite, or NaN to abstain."
        )
    sets = _process_sets(rule.credit, mask_BT, group_ids_B, tokens)
    sizes_BT = mask_BT.long() if sets is None else sets.sizes()
    if rule.credit.entry.reads_steps:
        if steps is None:
            steps = _steps_at_nonzero(rewards_BT, mask_BT, ignored_B)
        normalized = _normalized(steps, mask_BT, group_ids_B, ignored_B, rule.scale, reward_B.dtype)
        signal = Signal(
            mask_BT=mask_BT,
            advantage_B=torch.zeros_like(reward_B),
            sizes_BT=sizes_BT,
            steps=normalized,
            segment_BT=step_segments(normalized, mask_BT) if rule.credit.traces_steps else None,
        )
    else:
        signal = _outcome_signal(rule, reward_B, mask_BT, group_ids_B, sizes_BT, sets)
    return assign_credit(rule.credit, signal)


def _outcome_signal(
    rule: BridgeRule,
    reward_B: Tensor,
    mask_BT: Tensor,
    group_ids_B: Tensor,
    sizes_BT: Tensor,
    sets: PrefixSets | None,
) -> Signal:
    denominator_B = reward_denominator(reward_B, group_ids_B, scale=rule.scale)
    centred_B = reward_B - group_mean(reward_B, group_ids_B)
    reads_values = rule.credit.entry.shares_prefixes
    return Signal(
        mask_BT=mask_BT,
        advantage_B=(centred_B / denominator_B).nan_to_num(0.0),
        sizes_BT=sizes_BT,
        values_BT1=sets.mean(reward_B) if reads_values and sets is not None else None,
        sibling_gain_BT=_sibling_gains(rule.credit, reward_B, group_ids_B, sets),
        denominator_B=denominator_B.masked_fill(reward_B.isnan(), torch.inf),
    )


def _sibling_gains(
    rule: CreditRule, reward_B: Tensor, group_ids_B: Tensor, sets: PrefixSets | None
) -> Tensor | None:
    if sets is None or not rule.entry.compares_siblings:
        return None
    mean_B = group_mean(reward_B, group_ids_B)
    return sibling_gains(reward_B, sets, shrinkage=rule.sibling_shrinkage, initial_B=mean_B)


def _process_sets(
    rule: CreditRule, mask_BT: Tensor, group_ids_B: Tensor, tokens: TokenIds | None
) -> PrefixSets | None:
    if not rule.shares_prefixes:
        return None
    if tokens is None:
        raise ValueError(
            "trl_lambda: td_error='tree' and 'sibling' and process_set_weighting compare token "
            "ids, and none were given."
        )
    T = mask_BT.shape[1]
    beyond_BT = torch.arange(T, device=mask_BT.device) >= tokens.lengths_B[:, None]
    if (mask_BT & beyond_BT).any():
        row = int((mask_BT & beyond_BT).any(1).nonzero()[0])
        raise ValueError(
            f"trl_lambda: the mask of completion {row} has policy tokens past its end "
            f"(length {int(tokens.lengths_B[row])})."
        )
    return prefix_sets(
        tokens.completion_ids_BT,
        tokens.lengths_B * mask_BT.any(1),
        split_groups_by_prompt(group_ids_B, tokens.prompt_ids_BP),
    )


def _normalized(
    steps: Sequence[StepRewards | None],
    mask_BT: Tensor,
    group_ids_B: Tensor,
    ignored_B: Tensor,
    scale: Scale,
    dtype: torch.dtype,
) -> Steps:
    B, T = mask_BT.shape
    if len(steps) != B:
        raise ValueError(f"trl_lambda: steps of {len(steps)} rows came with {B} completions.")
    kept = [None if ignored else s for s, ignored in zip(steps, ignored_B.tolist(), strict=True)]
    check_steps(kept, [T] * B, where="trl_lambda: step rewards")
    return normalize_steps(kept, group_ids_B, scale=scale, dtype=dtype)


def _steps_at_nonzero(
    rewards_BT: Tensor, mask_BT: Tensor, ignored_B: Tensor
) -> list[list[tuple[int, float]]]:
    is_step_BT = rewards_BT != 0
    if (mask_BT.any(1) & ~ignored_B & ~is_step_BT.any(1)).any():
        warnings.warn(
            "td_error='process' takes each token-level reward that is not 0 for a step, and a "
            "completion has none. If a step's reward can be exactly 0, add a constant to the "
            "rewards of all steps: it leaves the normalised rewards as they are.",
            stacklevel=2,
        )
    steps: list[list[tuple[int, float]]] = [[] for _ in range(rewards_BT.shape[0])]
    rows, ends = is_step_BT.nonzero(as_tuple=True)
    values = rewards_BT[rows, ends].tolist()
    for row, end, reward in zip(rows.tolist(), ends.tolist(), values, strict=True):
        steps[row].append((end, reward))
    return steps


def _number_groups(groups: Iterable[Hashable], mask_BT: Tensor) -> Tensor:
    """`(B,)`: names in any order and of any kind as integers."""
    numbers_by_name: dict[Hashable, int] = {}
    names = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(names) != mask_BT.shape[0]:
        raise ValueError(
            f"trl_lambda: {len(names)} names of groups came with {mask_BT.shape[0]} completions."
        )
    ids = [numbers_by_name.setdefault(name, len(numbers_by_name)) for name in names]
    return torch.tensor(ids, dtype=torch.int64, device=mask_BT.device)


def _check_shapes(rewards_BT: Tensor, mask_BT: Tensor) -> None:
    if mask_BT.ndim != 2 or 0 in mask_BT.shape or rewards_BT.shape != mask_BT.shape:
        raise ValueError(
            "trl_lambda: expected rewards and a mask of the same shape (B, T), neither 0, got "
            f"{tuple(rewards_BT.shape)} and {tuple(mask_BT.shape)}."
        )
    if not rewards_BT.is_floating_point():
        raise ValueError(f"trl_lambda: rewards must be floating point, got {rewards_BT.dtype}.")


def _check_fit(mask_BT: Tensor, tokens: TokenIds | None, ignored_B: Tensor | None) -> None:
    B, T = mask_BT.shape
    expected = {} if ignored_B is None else {"ignored_B": (ignored_B, (B,))}
    if tokens is not None:
        P = tokens.prompt_ids_BP.shape[-1]
        expected["completion_ids_BT"] = (tokens.completion_ids_BT, (B, T))
        expected["lengths_B"] = (tokens.lengths_B, (B,))
        expected["prompt_ids_BP"] = (tokens.prompt_ids_BP, (B, P))
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"trl_lambda: {name} has the shape {tuple(tensor.shape)}; expected {shape} to go "
                f"with a mask of shape {(B, T)}."
            )
