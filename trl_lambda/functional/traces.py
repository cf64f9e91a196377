"""Eligibility traces over the tokens of a completion, forward (W x) and backward (Wᵀ δ).

Shape suffixes: B completions, T completion positions. `W` is lower triangular over the *policy*
tokens of one completion: row t, column k ≤ t, both counting from 0 and passing over the tokens that
the mask excludes. With the decay c = γ·λ in [0, 1] and 0⁰ = 1,

    recent:  W[t, k] = c^(t−k)
    both:    W[t, k] = max(c^(t−k), c^k)

(GRPO-λ, arXiv 2510.00194, section 3.2, eq. 2). The trace of a token log-ratio x is z = W x, the
λ-return of a TD error δ is Wᵀ δ. Neither ever builds W: time is O(B·T·log T), memory O(B·T).

`normalize` (ours, not the paper's) divides each row of W by its sum, so that a constant x stays
itself and the column sums have mean 1.

The decay is one number, or `(B,)`: one for each completion, as a λ that grows with the length has
it (VAPO, arXiv 2504.05118).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

TraceStyle = Literal["recent", "both"]
TRACE_STYLES: tuple[str, ...] = get_args(TraceStyle)
Decay = float | Tensor


def eligibility_trace(
    x_BT: Tensor,
    mask_BT: Tensor,
    *,
    decay: Decay,
    style: TraceStyle = "recent",
    normalize: bool = False,
) -> Tensor:
    """Eligibility trace z = W x of a token quantity, here of log π_θ − log π_old.

    `recent` is the recursion z_t = x_t + c·z_{t−1}. `both` also lets the first tokens stay
    eligible: z_t = Σ_{k≤t/2} c^k x_k + Σ_{t/2<k≤t} c^(t−k) x_k. c = 0 with `recent` returns x,
    c = 1 the running sum (with `normalize`: the running mean).

    Args:
        x_BT: `(B, T)`, any floating dtype, time 0 … T−1. Differentiable: gradients flow through
            past terms. What it holds at masked positions never matters, not even NaN.
        mask_BT: `(B, T)`, nonzero on policy tokens. A token between policy tokens that is masked
            (a tool's output) neither contributes nor makes the decay advance.
        decay: c = γ·λ in [0, 1], or `(B,)`, one for each row.
        style: `"recent"` or `"both"`.
        normalize: divide z_t by the row sum Σ_k W[t, k].

    Returns:
        `(B, T)` in float32 or the wider dtype of `x_BT`; exactly 0 at masked positions.

    Raises:
        ValueError: shapes that differ, a decay outside [0, 1], an unknown style.

    Source: GRPO-λ, arXiv 2510.00194, section 3.2; `normalize` is ours.
    """
    _check("eligibility_trace", "x", x_BT, mask_BT, decay, style)
    tokens = _PolicyTokens(mask_BT)
    z_BT = _trace(tokens.compact(x_BT), decay, style)
    if normalize:
        z_BT = z_BT / _row_sums(z_BT, decay, style)
    return tokens.expand(z_BT)


def lambda_return(
    td_errors_BT: Tensor,
    mask_BT: Tensor,
    *,
    decay: Decay,
    style: TraceStyle = "recent",
    normalize: bool = False,
) -> Tensor:
    """λ-return Wᵀ δ: to each token the TD errors of the terms in which it is eligible.

    `recent` is the backward recursion A_k = δ_k + c·A_{k+1}, i.e. generalised advantage
    estimation; with δ on the last token only it is the λ-return of an outcome reward. `both` is
    A_k = Σ_{t=k}^{2k} c^(t−k) δ_t + c^k Σ_{t>2k} δ_t. c = 0 with `recent` returns δ, c = 1 the sum
    over the tokens from k on. It is the exact transpose of `eligibility_trace`:
    ⟨W x, δ⟩ = ⟨x, Wᵀ δ⟩, also normalised.

    Args:
        td_errors_BT: `(B, T)`, any floating dtype, time 0 … T−1; ignored at masked positions.
        mask_BT: `(B, T)`, nonzero on policy tokens.
        decay: c = γ·λ in [0, 1], or `(B,)`, one for each row. δ carries no γ of its own.
        style: `"recent"` or `"both"`.
        normalize: transpose the row-normalised W, i.e. divide δ_t by the row sum first.

    Returns:
        `(B, T)` in float32 or the wider dtype of `td_errors_BT`; exactly 0 at masked positions.

    Raises:
        ValueError: shapes that differ, a decay outside [0, 1], an unknown style.

    Source: GRPO-λ, arXiv 2510.00194, Theorem 1 (the transpose as credit is ours); Schulman et al.,
    arXiv 1506.02438, eq. 16 for `recent`.
    """
    _check("lambda_return", "td_errors", td_errors_BT, mask_BT, decay, style)
    tokens = _PolicyTokens(mask_BT)
    delta_BT = tokens.compact(td_errors_BT)
    if normalize:
        delta_BT = delta_BT / _row_sums(delta_BT, decay, style)
    return tokens.expand(_transposed_trace(delta_BT, decay, style))


def trace_weights(mask_BT: Tensor, *, decay: Decay, style: TraceStyle = "recent") -> Tensor:
    """Row sums v_t = Σ_k W[t, k]: how much trace a term of the loss carries (GRPO-λ's ε-weight).

    `recent`: v_t = (1 − c^(t+1))/(1 − c), and t + 1 for c = 1. The column sums, which tell how much
    a *token* gains, are `lambda_return` of ones.

    Args:
        mask_BT: `(B, T)`, nonzero on policy tokens.
        decay: c = γ·λ in [0, 1], or `(B,)`, one for each row.
        style: `"recent"` or `"both"`.

    Returns:
        `(B, T)` float32 (float64 for a float64 mask); exactly 0 at masked positions.

    Raises:
        ValueError: a mask that is not two-dimensional, a decay outside [0, 1], an unknown style.

    Source: GRPO-λ, arXiv 2510.00194, section 3.2.
    """
    _check("trace_weights", "mask", mask_BT, mask_BT, decay, style)
    tokens = _PolicyTokens(mask_BT)
    like = mask_BT if mask_BT.is_floating_point() else mask_BT.float()
    v_BT = _row_sums(like.to(_working_dtype(like)), decay, style)
    return tokens.expand(v_BT.expand(mask_BT.shape))


class _PolicyTokens:
    """The policy tokens of each row, moved to the front and back again.

    Attributes:
        mask_BT: bool.
        slot_BT: rank among the row's policy tokens; T (a slot nobody reads) where masked.
    """

    def __init__(self, mask_BT: Tensor):
        self.mask_BT = mask_BT.bool()
        rank_BT = self.mask_BT.cumsum(1) - 1
        self.slot_BT = torch.where(self.mask_BT, rank_BT, mask_BT.shape[1])

    def compact(self, values_BT: Tensor) -> Tensor:
        """Policy tokens at 0 … n−1, zeros behind them, in the working dtype."""
        values_BT = values_BT.to(_working_dtype(values_BT))
        padded = pad(torch.zeros_like(values_BT), (0, 1))
        return padded.scatter(1, self.slot_BT, values_BT)[:, :-1]

    def expand(self, compact_BT: Tensor) -> Tensor:
        """Inverse of `compact`; exactly 0 where masked."""
        gathered = pad(compact_BT, (0, 1)).gather(1, self.slot_BT)
        return gathered.masked_fill(~self.mask_BT, 0.0)


def _trace(x_BT: Tensor, decay: Decay, style: TraceStyle) -> Tensor:
    recent_BT = _decayed_sum(x_BT, decay)
    if style == "recent":
        return recent_BT
    # Up to the half h = ⌊t/2⌋ the weight c^k of the first tokens is the larger one.
    t = torch.arange(x_BT.shape[1], device=x_BT.device)
    half = t // 2
    powers = _powers(x_BT, decay)
    first_BT = _decayed_sum(x_BT * powers, 1.0)
    return first_BT[:, half] + recent_BT - powers[..., t - half] * recent_BT[:, half]


def _transposed_trace(delta_BT: Tensor, decay: Decay, style: TraceStyle) -> Tensor:
    from_here_BT = _decayed_sum(delta_BT.flip(1), decay).flip(1)
    if style == "recent":
        return from_here_BT
    # Beyond t = 2k the term's weight on token k is c^k, whatever t: swap that tail.
    T = delta_BT.shape[1]
    beyond = (2 * torch.arange(T, device=delta_BT.device) + 1).clamp(max=T)
    tail_sum_BT = pad(_decayed_sum(delta_BT.flip(1), 1.0).flip(1), (0, 1))[:, beyond]
    tail_decayed_BT = pad(from_here_BT, (0, 1))[:, beyond]
    step = decay[:, None].to(delta_BT.dtype) if isinstance(decay, Tensor) else decay
    return from_here_BT + _powers(delta_BT, decay) * (tail_sum_BT - step * tail_decayed_BT)


def _decayed_sum(x_BT: Tensor, decay: Decay) -> Tensor:
    """R_t = x_t + c·R_{t−1} by doubling: after step s each R_t covers its last 2s terms.

    With c = 1 it is a running sum, and deterministic on CUDA, where `cumsum` of floats is not.
    """
    if isinstance(decay, Tensor):
        return _decayed_sum_by_row(x_BT, decay[:, None].to(x_BT.dtype))
    reach, factor = 1, decay
    while reach < x_BT.shape[1] and factor > torch.finfo(x_BT.dtype).tiny:
        later_BT = torch.add(x_BT[:, reach:], x_BT[:, :-reach], alpha=factor)
        x_BT = torch.cat([x_BT[:, :reach], later_BT], 1)
        reach, factor = 2 * reach, factor * factor
    return x_BT


def _decayed_sum_by_row(x_BT: Tensor, factor_B1: Tensor) -> Tensor:
    """The same with a factor for each row; how small the factors are is not asked, which would
    wait for the device."""
    reach = 1
    while reach < x_BT.shape[1]:
        later_BT = x_BT[:, reach:] + factor_B1 * x_BT[:, :-reach]
        x_BT = torch.cat([x_BT[:, :reach], later_BT], 1)
        reach, factor_B1 = 2 * reach, factor_B1 * factor_B1
    return x_BT


def _row_sums(like_BT: Tensor, decay: Decay, style: TraceStyle) -> Tensor:
    """Row sums of W: `(1, T)`, the same for every row once policy tokens are compacted, and
    `(B, T)` where each row has a decay of its own."""
    rows_BT = like_BT if isinstance(decay, Tensor) else like_BT[:1]
    return _trace(torch.ones_like(rows_BT), decay, style)


def _powers(like: Tensor, decay: Decay) -> Tensor:
    """c⁰, c¹, …: `(T,)`, or `(B, T)` where each row has a decay of its own."""
    exponents = torch.arange(like.shape[1], device=like.device, dtype=like.dtype)
    if isinstance(decay, Tensor):
        return torch.pow(decay[:, None].to(like.dtype), exponents)
    return torch.pow(decay, exponents)


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _check(
    function: str, argument: str, values: Tensor, mask: Tensor, decay: Decay, style: str
) -> None:
    if values.ndim != 2:
        raise ValueError(f"{function}: {argument} must be (B, T), got shape {tuple(values.shape)}.")
    if mask.shape != values.shape:
        raise ValueError(
            f"{function}: mask must have the shape of {argument}, {tuple(values.shape)}, "
            f"got {tuple(mask.shape)}."
        )
    if argument != "mask" and not values.is_floating_point():
        raise ValueError(f"{function}: {argument} must be floating point, got {values.dtype}.")
    if isinstance(decay, Tensor):
        if decay.shape != values.shape[:1] or not decay.is_floating_point():
            raise ValueError(
                f"{function}: decay must be a number, or floating point (B,) = "
                f"{tuple(values.shape[:1])}, got {decay.dtype} of shape {tuple(decay.shape)}."
            )
    elif not (math.isfinite(decay) and 0.0 <= decay <= 1.0):
        raise ValueError(f"{function}: decay must lie in [0, 1], got {decay!r}.")
    if style not in TRACE_STYLES:
        raise ValueError(f"{function}: style must be one of {TRACE_STYLES}, got {style!r}.")
