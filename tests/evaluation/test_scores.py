"""avg@k, pass@k and maj@k against their definitions."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_samples import record

from trl_lambda.evaluation.metrics import avg_at_k, maj_at_k, pass_at_k
from trl_lambda.evaluation.summary import pass_ks, problem_scores


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_against_all_subsets(n):
    for k in range(1, n + 1):
        for right in range(n + 1):
            subsets = list(itertools.combinations([1] * right + [0] * (n - right), k))
            expected = sum(any(drawn) for drawn in subsets) / len(subsets)
            assert pass_at_k([right], n, k)[0] == pytest.approx(expected, abs=1e-15)


@given(st.data())
def test_pass_at_k_with_many_samples_against_exact_fractions(data):
    n = data.draw(st.integers(1, 4096))
    k = data.draw(st.integers(1, n))
    right = data.draw(st.integers(0, n))
    expected = 1 - Fraction(math.comb(n - right, k), math.comb(n, k))
    assert pass_at_k([right], n, k)[0] == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


MANY = 100_000


@pytest.mark.parametrize("k", [1, 2, 1000, 65_536, 99_990, MANY])
def test_pass_at_k_with_a_hundred_thousand_samples(k):
    """To the last digits, near 0 as near 1; all counts at once in milliseconds and megabytes."""
    scores = pass_at_k(np.arange(MANY + 1), MANY, k)
    for right in (0, 1, 2, 17, 30_000, MANY - k, MANY - k + 1, MANY):
        none, every = math.comb(MANY - min(right, MANY), k), math.comb(MANY, k)
        # Integers, of which the quotient is rounded once.
        assert scores[right] == pytest.approx((every - none) / every, rel=1e-14, abs=0)
    assert scores[0] == 0.0
    assert (np.diff(scores) >= 0).all()


def test_scores_of_a_hundred_thousand_samples():
    """All the metrics of one problem, within a minute."""
    groups = [[record(0, i, correct=i < 3, extracted=str(i % 5)) for i in range(MANY)]]
    scores = {name: values[0] for name, (values, _) in problem_scores(groups).items()}
    assert scores[f"avg@{MANY}"] == 3 / MANY
    assert scores["pass@2"] == pytest.approx(6 / MANY, rel=1e-4)
    assert scores[f"pass@{MANY}"] == 1.0
    assert all(0 <= value <= 1 for value in scores.values())


def test_pass_at_k_worked():
    assert pass_at_k([0, 1, 2, 4], 4, 2).tolist() == pytest.approx([0, 1 / 2, 5 / 6, 1])


@given(st.integers(1, 60), st.data())
def test_pass_at_1_is_avg_at_k_and_pass_at_n_is_any(n, data):
    counts = data.draw(st.lists(st.integers(0, n), min_size=1, max_size=9))
    np.testing.assert_allclose(pass_at_k(counts, n, 1), avg_at_k(counts, n), atol=1e-15)
    np.testing.assert_array_equal(pass_at_k(counts, n, n), np.array(counts) > 0)


def test_pass_at_k_is_unbiased():
    """Over all outcomes of 6 tosses with p = .3 its mean is 1 − .7³."""
    n, k, p = 6, 3, 0.3
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert pass_at_k(range(n + 1), n, k) @ chance == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([], 0.0),
        ([(1, True)], 1.0),
        ([(3, False), (2, True)], 0.0),
        ([(3, True), (2, False), (2, False)], 1.0),
        ([(2, True), (2, False)], 0.5),
        ([(2, True), (2, True), (2, False), (1, False)], 2 / 3),
    ],
)
def test_majority(votes, expected):
    assert maj_at_k(votes) == pytest.approx(expected)
    assert maj_at_k(votes[::-1]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [(1, []), (2, [2]), (3, [2, 3]), (4, [2, 4]), (5, [2, 4, 5]), (16, [2, 4, 8, 16])],
)
def test_which_pass_at_k_are_shown(samples, expected):
    assert pass_ks(samples) == expected


def test_the_draws_that_scores_stand_for():
    """pass@k of K samples is K/k draws, a majority is one."""
    groups = [[record(0, sample) for sample in range(8)]]
    draws = {name: trials for name, (_, trials) in problem_scores(groups).items()}
    assert draws == {"avg@8": 8, "pass@2": 4, "pass@4": 2, "pass@8": 1, "maj@8": 1}


def test_impossible_counts_and_ks_are_refused():
    with pytest.raises(ValueError, match=r"k is 5, expected 1 to 4"):
        pass_at_k([1], 4, 5)
    with pytest.raises(ValueError, match=r"counts: \[5\], expected 0 to 4"):
        avg_at_k([5], 4)
    with pytest.raises(ValueError, match=r"float64 of shape \(1,\), expected integers"):
        avg_at_k([0.5], 4)


def rewarded(*values_NK):
    """Records without the math reward, with rewards r of these values."""
    none = {"correct": None, "reason": None, "extracted": None}
    return [
        [record(n, i, rewards={"r": value}, **none) for i, value in enumerate(values)]
        for n, values in enumerate(values_NK)
    ]


def test_rewards_of_zero_and_one_are_shares():
    scores = problem_scores(rewarded((1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)))
    assert list(scores) == ["r avg@4", "r pass@2", "r pass@4"]
    assert scores["r avg@4"][0].tolist() == [0.25, 0.5]
    assert scores["r pass@2"][0].tolist() == pytest.approx([1 / 2, 5 / 6])
    assert [trials for _, trials in scores.values()] == [4, 2, 1]


def test_other_rewards_are_averaged_over_what_is_judged():
    scores = problem_scores(rewarded((-1.0, 2.0), (3.0, None), (None, None)))
    assert list(scores) == ["r avg@2"]
    values, trials = scores["r avg@2"]
    assert values[:2].tolist() == [0.5, 3.0]
    assert np.isnan(values[2])
    assert trials is None
