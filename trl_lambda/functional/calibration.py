"""Calibration of a score by other groups: ridge regression that never sees the group it predicts.

Shape suffixes: N observations, P groups, F features. The first feature is the constant 1. What an
observation adds to a fit are sums, so "all groups but mine" is a subtraction, and groups that were
seen earlier are one more term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Sums of a least-squares fit: `xx` is `(…, F, F)`, `xy` `(…, F)`; float64."""

    xx: Tensor
    xy: Tensor

    @classmethod
    def none(cls, features: int) -> Moments:
        return cls(
            torch.zeros(features, features, dtype=torch.float64),
            torch.zeros(features, dtype=torch.float64),
        )

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.xx + other.xx, self.xy + other.xy)

    def scaled(self, factor: float) -> Moments:
        return Moments(self.xx * factor, self.xy * factor)

    def of(self, features: list[int]) -> Moments:
        """The moments of some of the features."""
        return Moments(self.xx[..., features, :][..., features], self.xy[..., features])

    def sum(self) -> Moments:
        """The sums over all groups."""
        return Moments(self.xx.sum(0), self.xy.sum(0))

    def of_others(self) -> Moments:
        """For each group the sums of all the others."""
        total = self.sum()
        return Moments(total.xx - self.xx, total.xy - self.xy)


def group_moments(
    x_NF: Tensor, y_N: Tensor, weight_N: Tensor, group_N: Tensor, groups: int
) -> Moments:
    """Each group's own sums: `(P, F, F)` and `(P, F)`.

    Args:
        x_NF: `(N, F)`, the constant 1 first.
        y_N: `(N,)`, what is predicted.
        weight_N: `(N,)`; the weights of one completion's observations add up to 1.
        group_N: `(N,)`, integer, 0 … P−1.
        groups: P.
    """
    x_NF, y_N, weight_N = x_NF.double(), y_N.double(), weight_N.double()
    weighted_NF, F = x_NF * weight_N[:, None], x_NF.shape[1]
    xx = x_NF.new_zeros(groups, F, F)
    xy = x_NF.new_zeros(groups, F)
    return Moments(
        xx.index_add_(0, group_N, weighted_NF[:, :, None] * x_NF[:, None, :]),
        xy.index_add_(0, group_N, weighted_NF * y_N[:, None]),
    )


def ridge(moments: Moments, *, strength: float) -> Tensor:
    """Coefficients of a ridge regression, the constant unpenalised: `(…, F)`.

    The penalty is on standardised features, so a feature that is shifted or scaled predicts the
    same. `strength` is in observations of weight 1: it shrinks a lone feature's slope by W/(W +
    strength), where W is the weight seen. A feature that never varied gets the slope 0; where
    nothing was seen all coefficients are 0.

    Source: Hoerl and Kennard, Technometrics 12 (1970), on centred, scaled features.
    """
    weight = moments.xx[..., 0, 0].clamp(min=1e-12)
    mean_x = moments.xx[..., 0, 1:] / weight[..., None]
    mean_y = moments.xy[..., 0] / weight
    covariance = moments.xx[..., 1:, 1:] / weight[..., None, None]
    second = covariance.diagonal(dim1=-2, dim2=-1)
    covariance = covariance - mean_x[..., :, None] * mean_x[..., None, :]
    with_y = moments.xy[..., 1:] / weight[..., None] - mean_x * mean_y[..., None]
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    # Below the rounding of the sums: a constant.
    varies = variance > 1e-12 * second
    scale = torch.where(varies, variance, torch.inf).sqrt()
    correlation = covariance / (scale[..., :, None] * scale[..., None, :])
    penalty = (strength / weight).clamp(min=1e-12)[..., None, None]
    eye = torch.eye(correlation.shape[-1], dtype=torch.float64, device=correlation.device)
    system = correlation + penalty * eye
    slope = cast(Tensor, torch.linalg.solve(system, with_y / scale)) / scale
    constant = mean_y - (slope * mean_x).sum(-1)
    return torch.cat([constant[..., None], slope], -1)


def others_range(value_N: Tensor, group_N: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of all groups but one's own: `(P,)` each; ±∞ where there is none.

    Args:
        value_N: `(N,)`; NaN is no value.
        group_N: `(N,)`, integer, 0 … P−1.
    """
    known_N = ~value_N.isnan()
    own_PN = group_N[None, :] == torch.arange(groups, device=group_N.device)[:, None]
    left_out_PN = own_PN | ~known_N
    lowest_P = value_N.expand(groups, -1).masked_fill(left_out_PN, torch.inf).amin(1)
    highest_P = value_N.expand(groups, -1).masked_fill(left_out_PN, -torch.inf).amax(1)
    return lowest_P, highest_P


def leave_one_out_mean(value_N: Tensor, group_N: Tensor, groups: int) -> Tensor:
    """Mean of the other known values of the group; one's own where there is no other. `(N,)`

    NaN is unknown, and stays NaN.

    Source: the baseline of RLOO, Ahmadian et al., arXiv 2402.14740.
    """
    known_N = (~value_N.isnan()).to(value_N.dtype)
    filled_N = value_N.nan_to_num(0.0)
    sums_P = value_N.new_zeros(groups).index_add_(0, group_N, filled_N)
    counts_P = value_N.new_zeros(groups).index_add_(0, group_N, known_N)
    others_N = counts_P[group_N] - known_N
    mean_N = (sums_P[group_N] - filled_N) / others_N.clamp(min=1.0)
    return torch.where(others_N > 0, mean_N, value_N).masked_fill(value_N.isnan(), torch.nan)
