"""Intervals: identities, edges, and their coverage by simulation."""

import numpy as np
import pytest

from trl_lambda.evaluation import intervals as intervals_module
from trl_lambda.evaluation.intervals import (
    Interval,
    Z,
    average_interval,
    bootstrap_interval,
    is_uncertain,
    mean_interval,
    paired_interval,
    student_interval,
    student_quantile,
    why_no_interval,
)
from trl_lambda.evaluation.metrics import pass_at_k

REPETITIONS = 2000


def difficulties(rng, p: float, concentration: float | None, problems: int) -> np.ndarray:
    """(2000, N) chances with mean p: all equal, or from a Beta distribution."""
    if concentration is None:
        return np.full((REPETITIONS, problems), p)
    return rng.beta(p * concentration, (1 - p) * concentration, (REPETITIONS, problems))


def coverage(interval, truth: float) -> float:
    return float(np.mean((interval.low <= truth) & (truth <= interval.high)))


@pytest.mark.parametrize("concentration", [None, 2.0, 0.5])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(("problems", "samples"), [(100, 8), (100, 64), (500, 8)])
def test_coverage_of_avg_at_k(problems, samples, p, concentration):
    rng = np.random.default_rng(problems + samples)
    chances = difficulties(rng, p, concentration, problems)
    interval = mean_interval(rng.binomial(samples, chances) / samples, samples)
    assert coverage(interval, p) >= 0.93


@pytest.mark.parametrize("concentration", [None, 2.0])
@pytest.mark.parametrize(("p", "k"), [(0.1, 4), (0.3, 2), (0.5, 2), (0.1, 8)])
def test_coverage_of_pass_at_k(p, k, concentration):
    samples, problems = 8, 100
    rng = np.random.default_rng(k)
    chances = difficulties(rng, p, concentration, problems)
    scores = pass_at_k(np.arange(samples + 1), samples, k)[rng.binomial(samples, chances)]
    if concentration is None:
        truth = 1 - (1 - p) ** k
    else:
        fine = rng.beta(p * concentration, (1 - p) * concentration, 4_000_000)
        truth = float(np.mean(1 - (1 - fine) ** k))
    assert coverage(mean_interval(scores, samples / k), truth) >= 0.93


@pytest.mark.parametrize("p", [0.02, 0.05, 0.1, 0.5, 0.95])
def test_coverage_with_thirty_problems_and_one_sample(p):
    rng = np.random.default_rng(30)
    interval = mean_interval(rng.binomial(1, p, (REPETITIONS, 30)), 1)
    assert coverage(interval, p) >= 0.93


@pytest.mark.parametrize("concentration", [None, 2.0])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_coverage_with_thirty_problems_of_several_samples(p, concentration):
    rng = np.random.default_rng(31)
    chances = difficulties(rng, p, concentration, 30)
    interval = mean_interval(rng.binomial(8, chances) / 8, 8)
    assert coverage(interval, p) >= 0.93


@pytest.mark.slow
def test_the_percentile_bootstrap_misses_there():
    """What its docstring says, and why it is not the one that is printed."""
    rng = np.random.default_rng(0)
    draws = rng.binomial(1, 0.05, (300, 30))
    ends = [bootstrap_interval(row) for row in draws]
    covered = np.mean([low <= 0.05 <= high for low, high in ends])
    assert 0.7 < covered < 0.87


@pytest.mark.parametrize("concentration", [None, 1.0])
@pytest.mark.parametrize(("p", "share"), [(0.05, 0.0), (0.05, 0.1), (0.1, 0.05), (0.5, 0.1)])
@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("problems", [30, 100])
def test_coverage_of_the_paired_difference(problems, samples, p, share, concentration):
    """B solves a share of what A misses."""
    rng = np.random.default_rng(problems + samples)
    a = difficulties(rng, p, concentration, problems)
    b = a + share * (1 - a)
    change = (rng.binomial(samples, b) - rng.binomial(samples, a)) / samples
    assert coverage(paired_interval(change, samples), share * (1 - p)) >= 0.93


def test_one_sample_a_problem_is_wilson():
    """By hand from Wilson's formula, with n = N(N−1)/(N+1) and Student's quantile."""
    low, high = mean_interval([1] * 3 + [0] * 27, 1)
    p, n, q = 0.1, 30 * 29 / 31, student_quantile(29)
    centre = (p + q**2 / (2 * n)) / (1 + q**2 / n)
    half = q / (1 + q**2 / n) * np.sqrt(p * (1 - p) / n + q**2 / (4 * n**2))
    assert (low, high) == pytest.approx((centre - half, centre + half))


def test_many_problems_make_it_the_normal_interval():
    rng = np.random.default_rng(0)
    scores = rng.beta(2, 3, 200_000)
    half = Z * scores.std(ddof=1) / np.sqrt(len(scores))
    expected = scores.mean() - half, scores.mean() + half
    assert mean_interval(scores, 8) == pytest.approx(expected, abs=1e-6)


def test_samples_of_equal_problems_count_in_full_and_of_opposite_problems_do_not():
    equal = mean_interval([0.5] * 50, 8)
    opposite = mean_interval([0.0, 1.0] * 25, 8)
    assert equal.high - equal.low < 0.45 * (opposite.high - opposite.low)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_wrong_or_all_right_is_no_certainty(value):
    low, high = mean_interval([value] * 30, 8)
    assert 0 <= low < high <= 1
    assert 0.1 < high - low < 0.15


def test_no_difference_is_no_certainty():
    low, high = paired_interval([0.0] * 30, 1)
    assert low < 0 < high
    assert paired_interval([0.0] * 30, 8).high < high


def test_a_difference_turned_round():
    change = np.random.default_rng(0).normal(0.1, 0.2, 40)
    low, high = paired_interval(change, 4)
    assert paired_interval(-change, 4) == pytest.approx((-high, -low))
    assert paired_interval(change, 4).excludes(0.0) == (low > 0 or high < 0)


@pytest.mark.parametrize(
    ("degrees", "expected", "tolerance"),
    [
        (1, 12.706, 1.5),
        (4, 2.776, 2e-3),
        (9, 2.2622, 1e-4),
        (29, 2.0452, 1e-4),
        (499, 1.9647, 1e-4),
    ],
)
def test_student_quantile(degrees, expected, tolerance):
    """Against printed tables."""
    assert student_quantile(degrees) == pytest.approx(expected, abs=tolerance)


@pytest.mark.slow
def test_the_bootstrap_is_repeatable_and_close_to_the_normal_interval():
    scores = np.random.default_rng(0).beta(2, 3, 2000)
    assert bootstrap_interval(scores) == bootstrap_interval(scores)
    half = Z * scores.std() / np.sqrt(len(scores))
    expected = scores.mean() - half, scores.mean() + half
    assert bootstrap_interval(scores) == pytest.approx(expected, abs=2e-3)


def test_few_solved_or_few_missed_problems_are_uncertain():
    assert is_uncertain([0.1] * 4 + [0.0] * 96)
    assert is_uncertain([0.9] * 4 + [1.0] * 96)
    assert not is_uncertain([0.1] * 5 + [0.0] * 95)


def test_one_problem_has_no_interval():
    with pytest.raises(ValueError, match=r"shape \(1,\), expected \(…, N\), at least 2"):
        mean_interval([0.5], 1)


BENCHMARKS = [(30, 32), (83, 16), (500, 4)]  # problems, samples


@pytest.mark.parametrize("concentration", [None, 2.0])
@pytest.mark.parametrize("chances", [(0.1, 0.3, 0.7), (0.5, 0.5, 0.5), (0.1, 0.1, 0.9)])
def test_coverage_of_the_average_over_benchmarks(chances, concentration):
    rng = np.random.default_rng(5)
    values, each = [], []
    for (problems, samples), p in zip(BENCHMARKS, chances, strict=True):
        drawn = rng.binomial(samples, difficulties(rng, p, concentration, problems)) / samples
        values.append(drawn.mean(-1))
        each.append(mean_interval(drawn, samples))
    assert coverage(average_interval(values, each), np.mean(chances)) >= 0.93


def test_the_average_of_equal_benchmarks_is_sure_by_the_root_of_their_number():
    one = Interval(0.3, 0.7)
    assert average_interval([0.5], [one]) == pytest.approx(one)
    assert average_interval([0.5] * 4, [one] * 4) == pytest.approx((0.4, 0.6))
    lopsided = average_interval([0.0, 0.0], [Interval(0.0, 0.2)] * 2)
    assert lopsided == pytest.approx((0.0, 0.2 / 2**0.5))
    with pytest.raises(ValueError, match="2 values and 1 intervals"):
        average_interval([0.5, 0.5], [one])


def test_the_interval_of_rewards():
    """Worked: mean 2, standard error 1/√3, Student's 4.3027 for two degrees of freedom."""
    half = 4.3027 / 3**0.5
    assert student_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half))
    rng = np.random.default_rng(6)
    drawn = rng.normal(-3.0, 2.0, (REPETITIONS, 12))
    assert coverage(student_interval(drawn), -3.0) >= 0.935


def test_why_there_is_no_interval():
    assert why_no_interval([0.5], is_share=True) == "one problem"
    assert why_no_interval([], is_share=False) == "no problem"
    assert why_no_interval([2.0, 2.0], is_share=False) == "all problems equal"
    assert why_no_interval([1.0, 1.0], is_share=True) == ""
    assert why_no_interval([2.0, 1.0], is_share=False) == ""


def test_the_bootstrap_is_the_same_in_blocks(monkeypatch):
    """Many problems do not take the memory of all resamples at once."""
    values = np.random.default_rng(7).random(50)
    whole = bootstrap_interval(values)
    monkeypatch.setattr(intervals_module, "BLOCK", 1300)
    assert bootstrap_interval(values) == pytest.approx(whole, abs=1e-12)
