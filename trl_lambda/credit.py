"""The method on one page: from rewards, tokens and masks to the credit of each token.

Shape suffixes: B completions, T completion positions. Everything GRPO-like is one loss,

    −(1/N) Σ_i Σ_t mask · w · ( v · min(ρ·A, clip(ρ)·A) − β·KL ),      ρ = exp(z),

and this module computes the product w·v·A, which any GRPO loss takes as a token-level advantage:
v and w are positive, so they pass through the min. What is left to the loss itself is the trace z
of the log-ratio in `ratio` mode and the weight w on the KL term.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .functional import eligibility_trace, lambda_return, trace_weights
from .functional.segments import segment_counts, segment_lambda_return
from .functional.traces import Decay
from .methods import TRACE_MODES, TRACE_STYLES
from .rule import CreditRule
from .td_errors import TD_ERRORS, CreditBatch, Signal, checked_td_errors

__all__ = [
    "TD_ERRORS",
    "TRACE_MODES",
    "TRACE_STYLES",
    "Z_LIMIT",
    "Credit",
    "CreditBatch",
    "CreditRule",
    "Signal",
    "assign_credit",
    "loss_weights",
    "process_set_weights",
    "token_gains",
    "traced_log_ratio",
]


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

    `td_error` gives δ; `advantage_floor` bounds A_i before, or δ itself of `sibling`. In
    `advantage` mode A = Wᵀδ, else A = δ; `tree` adds the untraced A_i. `weight` mode multiplies by
    the row sums v of the trace, process-set weighting by w = 1/size.

    Raises:
        TypeError, ValueError: the user's TD error is no `(B, T)` tensor of finite numbers.

    Source: GRPO-λ, arXiv 2510.00194, sections 3.2-3.3; λ-GRPO, arXiv 2509.21154, section 4;
    `advantage` mode, `normalize_trace`, `tree` with λ > 0 and `sibling` are ours.
    """
    if rule.advantage_floor is not None and not rule.entry.bounded:
        bounded_B = signal.advantage_B.clamp(min=rule.advantage_floor)
        signal = replace(signal, advantage_B=bounded_B)
    credit_BT = checked_td_errors(rule.td_error, signal)
    if rule.advantage_floor is not None and rule.entry.bounded:
        credit_BT = credit_BT.clamp(min=rule.advantage_floor)
    if rule.traced and rule.trace_mode == "advantage":
        credit_BT = _returns(rule, credit_BT, signal.mask_BT, signal.segment_BT)
    if rule.entry.adds_advantage:
        credit_BT = credit_BT + signal.advantage_B[:, None]
    if rule.traced and rule.trace_mode == "weight":
        credit_BT = credit_BT * loss_weights(rule, signal.mask_BT)
    if signal.branch_weight_BT is not None:
        credit_BT = credit_BT * signal.branch_weight_BT
    weight_BT = process_set_weights(rule, signal.sizes_BT)
    masked_BT = ~signal.mask_BT.bool()
    return Credit(
        advantage_BT=(credit_BT * weight_BT).masked_fill(masked_BT, 0.0),
        weight_BT=weight_BT.masked_fill(masked_BT, 0.0),
    )


def process_set_weights(rule: CreditRule, sizes_BT: Tensor) -> Tensor:
    """w = 1/size (λ-GRPO), or ones."""
    if not rule.process_set_weighting:
        return torch.ones(sizes_BT.shape, device=sizes_BT.device)
    return 1.0 / sizes_BT.clamp(min=1)


def loss_weights(rule: CreditRule, mask_BT: Tensor) -> Tensor:
    """Trace weights v of `weight` mode: row sums of W, with `normalize_trace` over their mean."""
    v_BT = trace_weights(mask_BT, decay=_decay(rule, mask_BT.sum(1)), style=rule.trace_style)
    if rule.normalize_trace:
        v_BT = v_BT * mask_BT.sum(1, keepdim=True) / v_BT.sum(1, keepdim=True).clamp(min=1.0)
    return v_BT


def token_gains(rule: CreditRule, mask_BT: Tensor, segment_BT: Tensor | None = None) -> Tensor:
    """Token gains: what the trace multiplies a token's gradient by if δ is constant; 1 without one.

    They are the column sums Wᵀ1 (`advantage`, `ratio`), or the trace weights v (`weight`); with
    `trace_per="step"` the column sums over steps, for a δ that is constant over steps.
    """
    ones_BT = mask_BT.float()
    if not rule.traced:
        return ones_BT
    if rule.trace_mode == "weight":
        return loss_weights(rule, mask_BT)
    if rule.traces_steps:
        assert segment_BT is not None
        # One for each step: on its first token.
        before_BT = torch.nn.functional.pad(segment_BT.cummax(1)[0][:, :-1], (1, 0), value=-1)
        ones_BT = (segment_BT > before_BT).float()
    return _returns(rule, ones_BT, mask_BT, segment_BT)


# exp(20) = 5e8: any clipping range is long passed, and float32 still has room.
Z_LIMIT = 20.0


def traced_log_ratio(rule: CreditRule, log_ratio_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """z = W x of `ratio` mode, unclamped; `Z_LIMIT` is where the loss clamps it."""
    decay = _decay(rule, mask_BT.sum(1))
    return eligibility_trace(
        log_ratio_BT, mask_BT, decay=decay, style=rule.trace_style, normalize=rule.normalize_trace
    )


def _returns(
    rule: CreditRule, delta_BT: Tensor, mask_BT: Tensor, segment_BT: Tensor | None
) -> Tensor:
    """Wᵀδ, over tokens or over steps."""
    options = {"style": rule.trace_style, "normalize": rule.normalize_trace}
    if not rule.traces_steps:
        return lambda_return(delta_BT, mask_BT, decay=_decay(rule, mask_BT.sum(1)), **options)
    assert segment_BT is not None
    decay = _decay(rule, segment_counts(segment_BT))
    return segment_lambda_return(delta_BT, segment_BT, decay=decay, **options)


def _decay(rule: CreditRule, length_B: Tensor) -> Decay:
    """c, or 1 − 1/(α·length) for each row, no lower than 0 (VAPO, arXiv 2504.05118)."""
    if isinstance(rule.decay, str):
        return 1 - 1 / (rule.trace_alpha * length_B.float()).clamp(min=1.0)
    return rule.decay
