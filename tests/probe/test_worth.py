"""AUC and calibration error against loops over pairs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_lambda.probe.worth import (
    RECENT,
    RecentAuc,
    auc,
    auc_by_segment,
    calibration_error,
    is_high,
)

VALUES = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.booleans()), max_size=12)


def naive_auc(pairs) -> float:
    won = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, is_one in pairs
        if is_one
        for low, is_other in pairs
        if not is_other
    ]
    return sum(won) / len(won) if won else math.nan


@given(VALUES)
def test_auc_is_the_share_of_pairs(pairs):
    values = torch.tensor([value for value, _ in pairs])
    high = torch.tensor([flag for _, flag in pairs], dtype=torch.bool)
    assert auc(values, high) == pytest.approx(naive_auc(pairs), nan_ok=True)


@pytest.mark.parametrize(
    ("rewards", "high"),
    [
        ([0, 0, 0, 1], [0, 0, 0, 1]),  # the median is the lowest reward
        ([0, 1, 1, 1], [0, 1, 1, 1]),
        ([0.0, 0.2, 0.4, 0.9], [0, 0, 1, 1]),
        ([1, 1], [0, 0]),
        ([math.nan, 0, 1], [0, 0, 1]),
        ([math.nan], [0]),
    ],
)
def test_a_high_reward_is_one_at_the_median_or_above(rewards, high):
    assert is_high(torch.tensor(rewards, dtype=torch.float64)).tolist() == [bool(h) for h in high]


def test_auc_by_segment_over_all_rows_and_within_groups():
    """The values tell the easy group from the hard one, and nothing within: but at the end."""
    values = [[0.9, 0.9], [0.9, 0.8], [0.9, 0.7], [0.1, 0.2], [0.1, 0.1], [0.1]]
    rewards, groups = [1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 1]
    first, second = auc_by_segment(values, rewards, groups)
    assert (first.segment, first.rows, first.pairs_within) == (0, 6, 4)
    assert first.auc == pytest.approx((2 * (0.5 + 1 + 1) + (0 + 0.5 + 0.5)) / 9)
    assert first.auc_within == 0.5
    assert (second.rows, second.pairs_within, second.auc_within) == (5, 3, 1.0)


def test_auc_by_segment_without_pairs():
    (only,) = auc_by_segment([[0.5], [0.6]], [1.0, 1.0], [0, 0])
    assert math.isnan(only.auc)
    assert math.isnan(only.auc_within)


def test_the_calibration_error():
    value = torch.linspace(0, 1, 100)
    assert calibration_error(value, value) == pytest.approx(0, abs=1e-7)
    assert calibration_error(value, value + 0.25) == pytest.approx(0.25)
    assert calibration_error(torch.tensor([0.5]), torch.tensor([1.0])) == 0.5
    assert math.isnan(calibration_error(torch.zeros(0), torch.zeros(0)))


def test_recent_batches_count_together_by_their_pairs():
    recent = RecentAuc()
    assert all(math.isnan(recent.add(1.0, 1)) for _ in range(RECENT - 1))
    assert math.isnan(recent.add(0.0, 0))  # a batch without a pair says nothing
    again = RecentAuc()
    again.restore(recent.state())
    assert again.add(0.0, 21) == pytest.approx(19 / 40)
    assert again.add(21.0, 21) == pytest.approx((18 + 21) / (18 + 42))  # the first one is gone
