"""Estimators of the comparison: hand-worked numbers, identities, and coverage in a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks.learning.estimators import (
    first_reach,
    interquartile_mean,
    iqm_over_tasks,
    paired_difference,
    probability_of_improvement,
    stratified_bootstrap,
)


def test_interquartile_mean_by_hand():
    assert interquartile_mean([9, 1, 2, 100]) == pytest.approx((2 + 9) / 2)
    assert interquartile_mean([5.0]) == 5.0
    # N = 6: from 1.5 to 4.5, so half of the second, the third, the fourth, half of the fifth.
    assert interquartile_mean([0, 1, 2, 4, 8, 99]) == pytest.approx((0.5 + 2 + 4 + 4) / 3)
    # N = 10: from 2.5 to 7.5.
    assert interquartile_mean(np.arange(10)) == pytest.approx(
        (0.5 * 2 + 3 + 4 + 5 + 6 + 0.5 * 7) / 5
    )
    both = interquartile_mean([[9, 1, 2, 100], [0, 0, 1, 1]])
    np.testing.assert_allclose(both, [5.5, 0.5])
    with pytest.raises(ValueError, match="no values"):
        interquartile_mean([])


def test_iqm_over_tasks_takes_all_seeds_of_all_tasks():
    scores_SK = np.array([[0.0, 4.0], [1.0, 5.0]])
    assert iqm_over_tasks(scores_SK) == pytest.approx(2.5)
    assert iqm_over_tasks(scores_SK[None]).shape == (1,)


def test_probability_of_improvement_by_hand():
    # Task 1: of 4 pairs 3 are better and one a tie; task 2: none is.
    ours_SK = np.array([[2.0, 0.0], [3.0, 0.0]])
    theirs_SK = np.array([[2.0, 1.0], [1.0, 1.0]])
    assert probability_of_improvement(ours_SK, theirs_SK) == pytest.approx((3.5 / 4 + 0) / 2)
    assert probability_of_improvement(ours_SK, ours_SK) == 0.5
    total = probability_of_improvement(ours_SK, theirs_SK) + probability_of_improvement(
        theirs_SK, ours_SK
    )
    assert total == pytest.approx(1.0)


def test_paired_difference_by_hand():
    # Differences 0.1 and 0.3, five of each: mean 0.2, deviation 0.10541, t(9) = 2.2622.
    value, low, high = paired_difference([0.5, 0.8] * 5, [0.4, 0.5] * 5)
    assert value == pytest.approx(0.2)
    assert (high - low) / 2 == pytest.approx(2.2622 * 0.10541 / 10**0.5, rel=1e-3)
    with pytest.raises(ValueError, match="at least 2"):
        paired_difference([1.0], [0.0])


def test_first_reach_by_hand():
    assert first_reach([0, 10, 20], [0.0, 0.5, 0.4], 0.25) == pytest.approx(5.0)
    assert first_reach([0, 10, 20], [0.3, 0.5, 0.4], 0.25) == 0.0
    assert math.isinf(first_reach([0, 10, 20], [0.0, 0.5, 0.4], 0.6))


def test_strata_are_kept_apart():
    # Within a task all seeds agree: nothing to resample, however much tasks differ.
    scores_SK = np.tile([0.1, 0.5, 0.9], (10, 1))
    value, low, high = stratified_bootstrap(iqm_over_tasks, scores_SK)
    assert value == pytest.approx(low) == pytest.approx(high)


def test_samples_are_drawn_apart():
    rng = np.random.default_rng(0)
    ours_SK = rng.normal(size=(10, 2))

    def mean_difference(a, b):
        return (a - b).mean((-2, -1))

    apart = stratified_bootstrap(mean_difference, ours_SK, ours_SK)
    assert apart.value == 0.0
    assert apart.high - apart.low > 0.5


def test_bootstrap_refuses_what_has_no_tasks():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        stratified_bootstrap(iqm_over_tasks, [1.0, 2.0, 3.0])


def test_bootstrap_intervals_cover():
    """10 seeds of 5 tasks with centres and spreads of their own; the truth from 40 000 seeds."""
    rng = np.random.default_rng(1)
    centres, spreads = np.linspace(0.2, 0.9, 5), np.array([0.02, 0.1, 0.05, 0.02, 0.1])

    def draw(seeds: int) -> np.ndarray:
        return centres + spreads * rng.standard_normal((seeds, 5))

    truth = float(iqm_over_tasks(draw(40_000)))
    repetitions = 400
    covered = 0
    for i in range(repetitions):
        estimate = stratified_bootstrap(iqm_over_tasks, draw(10), resamples=500, seed=i)
        covered += estimate.low <= truth <= estimate.high
    # Nominally .95; a percentile bootstrap of ten is a little narrow.
    assert 0.87 <= covered / repetitions <= 0.99


def test_paired_intervals_cover():
    rng = np.random.default_rng(2)
    repetitions = 1000
    covered = 0
    for _ in range(repetitions):
        ours = rng.normal(0.03, 0.05, 10)
        estimate = paired_difference(ours, np.zeros(10))
        covered += estimate.low <= 0.03 <= estimate.high
    assert 0.93 <= covered / repetitions <= 0.97
