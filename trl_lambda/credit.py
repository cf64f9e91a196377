"""The method on one page: from rewards, tokens and masks to the credit of each token.

Shape suffixes: B completions, T completion positions, S steps. Everything GRPO-like is one loss,

    −(1/N) Σ_i Σ_t mask · w · ( v · min(ρ·A, clip(ρ)·A) − β·KL ),      ρ = exp(z),

and this module computes the product w·v·A, which any GRPO loss takes as a token-level advantage:
v and w are positive, so they pass through the min. What is left to the loss itself is the trace z
of the log-ratio in `ratio` mode and the weight w on the KL term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .functional import (
    eligibility_trace,
    lambda_return,
    terminal_td_errors,
    trace_weights,
    tree_td_errors,
)
from .functional.td_errors import Steps, place_steps

TDError = Literal["group", "terminal", "tree", "process"]
TraceStyle = Literal["none", "recent", "both"]
TraceMode = Literal["advantage", "ratio", "weight"]
TD_ERRORS: tuple[str, ...] = get_args(TDError)
TRACE_STYLES: tuple[str, ...] = get_args(TraceStyle)
TRACE_MODES: tuple[str, ...] = get_args(TraceMode)


@dataclass(frozen=True)
class CreditRule:
    """How credit is assigned; fields and defaults as in `LambdaGRPOConfig`."""

    td_error: TDError = "group"
    trace_style: TraceStyle = "recent"
    trace_mode: TraceMode = "advantage"
    decay: float = 0.99
    normalize_trace: bool = True
    advantage_floor: float | None = -0.1
    process_set_weighting: bool = False

    @property
    def traced(self) -> bool:
        return self.trace_style != "none"

    @property
    def traces_ratio(self) -> bool:
        """Whether the loss needs z in place of the log-ratio."""
        return self.traced and self.trace_mode == "ratio"

    @property
    def shares_prefixes(self) -> bool:
        """Whether credit depends on which completions share a prefix."""
        return self.process_set_weighting or self.td_error == "tree"

    @property
    def token_level(self) -> bool:
        """Whether tokens of one completion can differ in credit."""
        return self.traced or self.td_error != "group" or self.process_set_weighting


@dataclass(frozen=True)
class Signal:
    """What is known of a batch of completions once they are scored.

    Attributes:
        mask_BT: nonzero on policy tokens.
        advantage_B: A_i, the group-normalised reward; for `process` the part of it that the user
            gave a weight, else 0.
        sizes_BT: process-set sizes, 0 on completions that left the counts.
        values_BT1: V before each token and after the last (`tree` only).
        denominator_B: what A_i was divided by; infinite where no reward is known (`tree` only).
        steps: normalised step rewards (`process` only).
    """

    mask_BT: Tensor
    advantage_B: Tensor
    sizes_BT: Tensor
    values_BT1: Tensor | None = None
    denominator_B: Tensor | None = None
    steps: Steps | None = None


@dataclass(frozen=True)
class Credit:
    """`(B, T)` each, 0 on masked tokens.

    Attributes:
        advantage_BT: w·v·A, the token-level advantage the loss multiplies the ratio with.
        weight_BT: w, which weighs the KL term too.
    """

    advantage_BT: Tensor
    weight_BT: Tensor


def assign_credit(rule: CreditRule, signal: Signal) -> Credit:
    """Credit of every token.

    `td_error` gives δ. In `advantage` mode A = Wᵀδ, else A = δ; `tree` adds the untraced A_i.
    `weight` mode multiplies by the row sums v of the trace, process-set weighting by w = 1/size.

    Source: GRPO-λ, arXiv 2510.00194, sections 3.2-3.3; λ-GRPO, arXiv 2509.21154, section 4;
    `advantage` mode, `normalize_trace` and `tree` with λ > 0 are ours.
    """
    floor = rule.advantage_floor
    advantage_B = signal.advantage_B if floor is None else signal.advantage_B.clamp(min=floor)
    credit_BT = td_errors(rule, signal, advantage_B)
    if rule.traced and rule.trace_mode == "advantage":
        credit_BT = lambda_return(credit_BT, signal.mask_BT, **trace_options(rule))
    if rule.td_error == "tree":
        credit_BT = credit_BT + advantage_B[:, None]
    if rule.traced and rule.trace_mode == "weight":
        credit_BT = credit_BT * loss_weights(rule, signal.mask_BT)
    weight_BT = process_set_weights(rule, signal.sizes_BT)
    masked_BT = ~signal.mask_BT.bool()
    return Credit(
        advantage_BT=(credit_BT * weight_BT).masked_fill(masked_BT, 0.0),
        weight_BT=weight_BT.masked_fill(masked_BT, 0.0),
    )


def td_errors(rule: CreditRule, signal: Signal, advantage_B: Tensor) -> Tensor:
    """δ of the rule, `(B, T)`."""
    if rule.td_error == "group":
        return advantage_B[:, None] * signal.mask_BT
    if rule.td_error == "terminal":
        return terminal_td_errors(advantage_B, signal.mask_BT)
    if rule.td_error == "tree":
        assert signal.values_BT1 is not None
        assert signal.denominator_B is not None
        return tree_td_errors(signal.values_BT1, signal.mask_BT, signal.denominator_B)
    assert rule.td_error == "process"
    assert signal.steps is not None
    # An outcome reward is one more step that ends with the completion.
    outcome_BT = terminal_td_errors(advantage_B, signal.mask_BT)
    return place_steps(signal.steps, signal.mask_BT) + outcome_BT


def process_set_weights(rule: CreditRule, sizes_BT: Tensor) -> Tensor:
    """w = 1/size (λ-GRPO), or ones."""
    if not rule.process_set_weighting:
        return torch.ones(sizes_BT.shape, device=sizes_BT.device)
    return 1.0 / sizes_BT.clamp(min=1)


def loss_weights(rule: CreditRule, mask_BT: Tensor) -> Tensor:
    """v of `weight` mode: row sums of W, with `normalize_trace` over their mean."""
    v_BT = trace_weights(mask_BT, decay=rule.decay, style=rule.trace_style)
    if rule.normalize_trace:
        v_BT = v_BT * mask_BT.sum(1, keepdim=True) / v_BT.sum(1, keepdim=True).clamp(min=1.0)
    return v_BT


def token_gains(rule: CreditRule, mask_BT: Tensor) -> Tensor:
    """How much the trace multiplies a token's gradient by if δ is constant; 1 without a trace.

    The column sums Wᵀ1 (`advantage`, `ratio`), or the row sums v (`weight`).
    """
    ones_BT = mask_BT.float()
    if not rule.traced:
        return ones_BT
    if rule.trace_mode == "weight":
        return loss_weights(rule, mask_BT)
    return lambda_return(ones_BT, mask_BT, **trace_options(rule))


# exp(20) = 5e8: any clipping range is long passed, and float32 still has room.
Z_LIMIT = 20.0


def traced_log_ratio(rule: CreditRule, log_ratio_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """z = W x of `ratio` mode, unclamped; `Z_LIMIT` is where the loss clamps it."""
    return eligibility_trace(log_ratio_BT, mask_BT, **trace_options(rule))


def trace_options(rule: CreditRule) -> dict:
    return {"decay": rule.decay, "style": rule.trace_style, "normalize": rule.normalize_trace}
