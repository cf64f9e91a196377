"""The ridge regression that leaves a group out, against least squares as one system."""

import math

import pytest
import segment_oracles
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_lambda.functional.calibration import (
    Moments,
    group_moments,
    leave_one_out_mean,
    others_range,
    ridge,
)


def observations(seed: int, N: int = 40, P: int = 4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 0.3])
    y = torch.rand(N, generator=generator, dtype=torch.float64) + 0.2 * x[:, 0]
    weight = torch.rand(N, generator=generator, dtype=torch.float64) + 0.1
    group = torch.randint(P, (N,), generator=generator)
    return x, y, weight, group


def with_constant(x):
    return torch.cat([torch.ones(len(x), 1, dtype=x.dtype), x], 1)


@pytest.mark.parametrize("strength", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(5))
def test_of_others_is_the_fit_without_the_group(seed, strength):
    x, y, weight, group = observations(seed)
    moments = group_moments(with_constant(x), y, weight, group, 4)
    found = ridge(moments.of_others(), strength=strength)
    for number in range(4):
        kept = group != number
        want = segment_oracles.ridge(x[kept], y[kept], weight[kept], strength)
        torch.testing.assert_close(found[number], want, rtol=1e-8, atol=1e-9)


def test_earlier_sums_are_as_good_as_the_observations():
    x, y, weight, group = observations(0)
    both = group_moments(with_constant(x), y, weight, group, 4).sum()
    first, second = (
        group_moments(with_constant(x[part]), y[part], weight[part], group[part], 4).sum()
        for part in (slice(0, 15), slice(15, None))
    )
    torch.testing.assert_close((first + second).xx, both.xx)
    torch.testing.assert_close((first + second).xy, both.xy)


@given(st.floats(-50, 50), st.floats(0.1, 10))
def test_a_feature_that_is_shifted_or_scaled_predicts_the_same(shift, scale):
    x, y, weight, group = observations(1)
    moved = x.clone()
    moved[:, 0] = scale * x[:, 0] + shift
    one, other = (
        with_constant(part)
        @ ridge(group_moments(with_constant(part), y, weight, group, 4).sum(), strength=8.0)
        for part in (x, moved)
    )
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


def test_a_feature_that_never_varies_has_no_slope_and_nothing_seen_is_zero():
    x, y, weight, group = observations(2)
    x[:, 0] = 0.1
    found = ridge(group_moments(with_constant(x), y, weight, group, 4).sum(), strength=0.0)
    assert found[1] == 0
    assert found.isfinite().all()
    assert ridge(Moments.none(3), strength=8.0).tolist() == [0, 0, 0]


def test_some_of_the_features_are_a_fit_of_their_own():
    x, y, weight, group = observations(3)
    moments = group_moments(with_constant(x), y, weight, group, 4).sum()
    want = segment_oracles.ridge(x[:, 1:], y, weight, 8.0)
    torch.testing.assert_close(ridge(moments.of([0, 2]), strength=8.0), want)


def test_the_range_is_that_of_the_others():
    value = torch.tensor([0.0, 1.0, 5.0, math.nan, -2.0])
    low, high = others_range(value, torch.tensor([0, 0, 1, 1, 2]), 3)
    assert low.tolist() == [-2, -2, 0]
    assert high.tolist() == [5, 1, 5]
    low, high = others_range(value[:2], torch.tensor([0, 0]), 1)
    assert (low.item(), high.item()) == (math.inf, -math.inf)


def test_the_mean_of_the_others():
    value = torch.tensor([1.0, 0.0, math.nan, 0.5, 3.0, math.nan])
    found = leave_one_out_mean(value, torch.tensor([0, 0, 0, 0, 1, 1]), 2)
    assert found[[0, 1, 3, 4]].tolist() == [0.25, 0.75, 0.5, 3.0]
    assert found[[2, 5]].isnan().all()
