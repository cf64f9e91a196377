"""Φ as a prediction of the reward, learnt from other groups than the one it predicts.

Ridge regression of r on (1, logit Φ, k/m), over the earlier batches' sums and the other groups of
the batch; each completion weighs the same, and older groups fade (half of their weight is gone
after `HALF_LIFE` groups). Predictions are clipped to the rewards that others got.

The values are in use once the probe has shown, on groups that its fit had not seen, that they
predict better than the same regression without Φ: by more than two standard errors over the groups
of *earlier* batches. Till then, and when it is no longer so, nothing is trained on them.

Shape suffixes: N completions of all processes, K segments, P groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..functional.calibration import Moments, group_moments, others_range, ridge

MIN_GROUPS = 16  # seen, and predicted, before a prediction counts
RIDGE = 8.0  # completions: what shrinks a slope by half when as many were seen
HALF_LIFE = 512.0  # groups
STANDARD_ERRORS = 2.0
SMALLEST = 1e-6  # Φ is kept this far from 0 and 1, so that its logit is finite


@dataclass(frozen=True)
class Observed:
    """The probes of a batch, float64.

    Attributes:
        log_phi_NK: log Φ_k, NaN where there is no segment k, or no gold.
        reward_N: NaN where unknown.
        group_N: 0 … P−1.
        groups: P.
        lacks_gold_N: completions of groups that were not probed, for lack of a gold.
    """

    log_phi_NK: Tensor
    reward_N: Tensor
    group_N: Tensor
    groups: int
    lacks_gold_N: Tensor

    @property
    def count_N1(self) -> Tensor:
        """Segments of each completion that were probed."""
        return (~self.log_phi_NK.isnan()).sum(1, keepdim=True)

    def features(self) -> Tensor:
        """`(N, K, 3)`: 1, logit Φ, k/m; NaN where nothing was probed."""
        phi_NK = self.log_phi_NK.exp().clamp(SMALLEST, 1 - SMALLEST)
        logit_NK = phi_NK.log() - (-phi_NK).log1p()
        k_K = torch.arange(phi_NK.shape[1], dtype=torch.float64)
        place_NK = (k_K / self.count_N1.clamp(min=1)).masked_fill(phi_NK.isnan(), torch.nan)
        return torch.stack([torch.ones_like(phi_NK), logit_NK, place_NK], -1)


@dataclass(frozen=True)
class Predicted:
    """A batch's probes, calibrated.

    Attributes:
        value_NK: V_k, NaN where nothing was probed, or too few other groups were seen.
        in_use: whether the values may be trained on.
    """

    value_NK: Tensor
    in_use: bool


class Calibration:
    """Running sums; the same on all processes, which all see the same batch.

    Attributes:
        moments: sums of the regression.
        groups: how many were seen, faded.
        low, high: the rewards seen lie between these.
        gain: over groups, faded: their number, and sum and sum of squares of how much smaller the
            mean squared error was with Φ.
    """

    def __init__(self) -> None:
        self.moments = Moments.none(3)
        self.groups = 0.0
        self.low, self.high = math.inf, -math.inf
        self.gain = torch.zeros(3, dtype=torch.float64)

    @property
    def predicts(self) -> bool:
        """Whether Φ was of use in earlier batches."""
        count, total, squares = self.gain.tolist()
        if count < MIN_GROUPS:
            return False
        mean = total / count
        error = math.sqrt(max(squares / count - mean**2, 0.0) / (count - 1))
        return mean > 0 and mean > STANDARD_ERRORS * error

    def predict(self, seen: Observed, *, learn: bool) -> Predicted:
        """V of a batch, each group's from the others; then the batch joins the sums.

        Args:
            learn: False leaves the sums as they are (in evaluation).
        """
        x_NK3 = seen.features()
        in_use = self.predicts
        own = self._moments_of(seen, x_NK3)
        known_P = own.xx[:, 0, 0] > 0
        others = own.of_others() + self.moments
        enough_P = self.groups + known_P.sum() - known_P.long() >= MIN_GROUPS
        low_P, high_P = others_range(seen.reward_N, seen.group_N, seen.groups)
        limits = low_P.clamp(max=self.low), high_P.clamp(min=self.high)
        value_NK = _fitted(others, [0, 1, 2], x_NK3, seen.group_N, limits)
        value_NK = value_NK.masked_fill(~enough_P[seen.group_N][:, None], torch.nan)
        if learn:
            without_NK = _fitted(others, [0, 2], x_NK3, seen.group_N, limits)
            self._learn(seen, own, known_P, _gains(seen, value_NK, without_NK))
        return Predicted(value_NK, in_use)

    def share(self, seen: Observed) -> Tensor:
        """`(N, K)`: V as a share of the rewards' range, by earlier batches alone; Φ until they say.

        For where to fork; what is trained on is `predict`'s.
        """
        if not self.predicts:
            return seen.log_phi_NK.exp()
        low, high = (torch.full((seen.groups,), limit).double() for limit in (self.low, self.high))
        earlier = Moments(
            self.moments.xx.expand(seen.groups, -1, -1), self.moments.xy.expand(seen.groups, -1)
        )
        value_NK = _fitted(earlier, [0, 1, 2], seen.features(), seen.group_N, (low, high))
        return (value_NK - self.low) / (self.high - self.low)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: plain numbers and tensors, which later batches leave as they are."""
        return {
            "xx": self.moments.xx.clone(),
            "xy": self.moments.xy.clone(),
            "groups": self.groups,
            "range": (self.low, self.high),
            "gain": self.gain.clone(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned."""
        self.moments = Moments(state["xx"].clone(), state["xy"].clone())
        self.groups = state["groups"]
        self.low, self.high = state["range"]
        self.gain = state["gain"].clone()

    def _moments_of(self, seen: Observed, x_NK3: Tensor) -> Moments:
        used_NK = ~x_NK3[..., 1].isnan() & ~seen.reward_N.isnan()[:, None]
        shape = used_NK.shape
        weight_NK = (1 / seen.count_N1.clamp(min=1)).expand(shape)
        return group_moments(
            x_NK3[used_NK],
            seen.reward_N[:, None].expand(shape)[used_NK],
            weight_NK[used_NK],
            seen.group_N[:, None].expand(shape)[used_NK],
            seen.groups,
        )

    def _learn(self, seen: Observed, own: Moments, known_P: Tensor, gain_P: Tensor) -> None:
        keeps = 0.5 ** (known_P.sum().item() / HALF_LIFE)
        self.moments = self.moments.scaled(keeps) + own.sum()
        self.groups = self.groups * keeps + known_P.sum().item()
        used_N = ~seen.log_phi_NK.isnan().all(1) & ~seen.reward_N.isnan()
        rewards = seen.reward_N[used_N].tolist()
        self.low, self.high = min([self.low, *rewards]), max([self.high, *rewards])
        told = gain_P[~gain_P.isnan()]
        sums = torch.stack([torch.ones_like(told), told, told**2]).sum(1)
        self.gain = self.gain * keeps + sums


def _fitted(
    others: Moments,
    features: list[int],
    x_NK3: Tensor,
    group_N: Tensor,
    limits: tuple[Tensor, Tensor],
) -> Tensor:
    """`(N, K)`: each group's predictions from the sums of the others, within what they got."""
    coefficients_PF = ridge(others.of(features), strength=RIDGE)
    value_NK = (x_NK3[..., features] * coefficients_PF[group_N][:, None]).sum(-1)
    low_N1, high_N1 = (limit_P[group_N][:, None] for limit_P in limits)
    return torch.minimum(torch.maximum(value_NK, low_N1), high_N1)


def _gains(seen: Observed, value_NK: Tensor, without_NK: Tensor) -> Tensor:
    """`(P,)`: how much smaller a group's mean squared error is with Φ; NaN where it is unknown."""
    reward_N1 = seen.reward_N[:, None]
    gain_NK = (without_NK - reward_N1) ** 2 - (value_NK - reward_N1) ** 2
    gain_N = gain_NK.nansum(1) / seen.count_N1[:, 0].clamp(min=1)
    known_N = (~gain_NK.isnan().all(1)).double()
    sums_P = torch.zeros(seen.groups, dtype=torch.float64).index_add_(0, seen.group_N, gain_N)
    counts_P = torch.zeros_like(sums_P).index_add_(0, seen.group_N, known_N)
    return sums_P / counts_P
