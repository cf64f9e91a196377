"""95 % intervals over problems: how far a result may move with other problems of the same kind.

The problems are the sample; the samples of a problem only make its score less noisy. Shape
suffixes: N problems; … any leading axes, for simulations (the functions work on the last axis).

Coverage, simulated (20 000 repetitions; the percentile bootstrap: 1000), where problems are equally
difficult, and where their chances are from Beta(2p, 2(1−p)) and the extreme Beta(p/2, (1−p)/2). It
is the same for 1 − p:

| N | K | p | `mean_interval`: equal, Beta, extreme | percentile bootstrap |
|---|---|---|---|---|
| 30 | 1 | .05 | .985 .983 .984 | .80 .75 .77 |
| 30 | 1 | .1 | .975 .973 .977 | .96 .95 .95 |
| 30 | 8 | .05 | .977 .937 .915 | .95 .88 .79 |
| 30 | 8 | .1 | .978 .948 .938 | .95 .91 .92 |
| 30 | 32 | .05 | .996 .921 .869 | .94 .86 .81 |
| 30 | 32 | .1 | .997 .947 .932 | .95 .91 .90 |
| 100 | 8 | .1 | .962 .953 .949 | .94 .95 .94 |
| 100 | 32 | .1 | .974 .952 .948 | .95 .92 .95 |
| 100 | 8 | .5 | .963 .956 .953 | .95 .95 .95 |
| 500 | 8 | .1 | .956 .950 .950 | |

Where few of few problems are ever solved nothing is sure: `is_uncertain` says so.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

Z = 1.959963984540054  # the normal distribution's 97.5 % point
# Student's, for 1 … 9 degrees of freedom.
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
RESAMPLES = 5000
BLOCK = 10_000_000  # counts drawn at a time
FEW = 5  # problems
ONE_PROBLEM = "one problem"


class Interval(NamedTuple):
    """Both ends: floats, or arrays where there are leading axes."""

    low: Floats | float
    high: Floats | float

    def excludes(self, value: float) -> bool:
        """Whether the value is outside."""
        return bool(value < self.low or value > self.high)


def mean_interval(scores_N: ArrayLike, trials: float) -> Interval:
    """Interval of a mean of scores in [0, 1]: Wilson's, with the effective number of samples.

    That is n = m(1−m)/v of the mean m and its estimated variance v: as many independent coin tosses
    would be as uncertain. For one sample a problem n ≈ N − 2; it is more for several, unless the
    problems differ. v = (Σ(s−m)² + m(1−m))/((N−1)N), as if there were one problem more that is all
    right or all wrong, which few solved problems hide. n is at most `trials` times N, and N where
    all scores are 0 or all are 1. Student's quantile takes the place of the normal's. Unlike a
    bootstrap the interval never closes on a point, and it stays in [0, 1]. Source: Wilson 1927,
    with the effective size that survey statistics use for clusters (Korn and Graubard 1998); the
    additional problem is ours.

    Args:
        scores_N: (…, N) score of each problem, N ≥ 2.
        trials: Independent draws a score stands for, the most that n may be is N times this: K for
            avg@K, K/k for pass@k of K samples, 1 for maj@K.
    """
    scores = _checked(scores_N)
    count = scores.shape[-1]
    mean = scores.mean(-1)
    spread = mean * (1 - mean)
    squares = ((scores - scores.mean(-1, keepdims=True)) ** 2).sum(-1)
    variance = (squares + spread) / ((count - 1) * count)
    effective = np.minimum(spread / np.maximum(variance, 1e-300), count * trials)
    effective = np.where(spread > 0, effective, count)
    square = student_quantile(count - 1) ** 2
    centre = (mean + square / (2 * effective)) / (1 + square / effective)
    half = np.sqrt(square * (spread / effective + square / (4 * effective**2)))
    half = half / (1 + square / effective)
    return _interval((centre - half).clip(0, 1), (centre + half).clip(0, 1))


def paired_interval(differences_N: ArrayLike, trials: float) -> Interval:
    """Interval of a mean of differences in [−1, 1] between two systems on the same problems.

    Student's, with two problems' worth of pseudo-observations: half of one at each of ±1/√trials
    and one at 0. For one sample a problem these are Agresti and Min's (2005) ½ in each cell of the
    2×2 table; without them the interval closes on 0 where the two never differ. Simulated for N of
    30 to 500, K of 1 to 32: it covers at least 93 %, and up to 100 % where both are near 0.

    Args:
        differences_N: (…, N) difference of each problem's scores, N ≥ 2.
        trials: Independent draws a score stands for, as for `mean_interval`; the smaller of two.
    """
    differences = _checked(differences_N)
    problems = differences.shape[-1]
    count = problems + 2
    mean = differences.sum(-1) / count
    variance = ((differences**2).sum(-1) + 1 / trials) / count - mean**2
    half = student_quantile(problems - 1) * np.sqrt(variance / count)
    return _interval(mean - half, mean + half)


def student_interval(values_N: ArrayLike) -> Interval:
    """Student's interval of a mean of values without bounds, such as rewards or their differences.

    It closes on a point where all values are equal: nothing is then known of their spread, and
    `why_no_interval` says so.

    Args:
        values_N: (…, N) value of each problem, N ≥ 2.
    """
    values = _checked(values_N)
    count = values.shape[-1]
    mean = values.mean(-1)
    half = student_quantile(count - 1) * values.std(-1, ddof=1) / np.sqrt(count)
    return _interval(mean - half, mean + half)


def average_interval(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """Interval of the plain average of independent estimates, from the interval of each.

    Its ends are √Σ(vᵢ−lᵢ)²/M below the average and √Σ(uᵢ−vᵢ)²/M above it, for M estimates vᵢ in
    [lᵢ, uᵢ]: it is as lopsided as they are, and for one estimate it is the interval of that one.
    Source: Zou and Donner 2008, "Construction of confidence limits about effect measures", the
    method of variance estimates recovery. Simulated for three benchmarks of 30, 83 and 500
    problems with mean chances from .1 to .9, Beta or equal: it covers 94 to 99 %.

    Args:
        values: The M estimates, on different problems each.
        intervals: Theirs; each holds its estimate.
    """
    if not values or len(values) != len(intervals):
        raise ValueError(
            f"average_interval: {len(values)} values and {len(intervals)} intervals, expected as "
            "many of both, at least one."
        )
    below = np.sqrt(
        sum((value - one.low) ** 2 for value, one in zip(values, intervals, strict=True))
    )
    above = np.sqrt(
        sum((one.high - value) ** 2 for value, one in zip(values, intervals, strict=True))
    )
    average = sum(values) / len(values)
    return _interval(average - below / len(values), average + above / len(values))


def bootstrap_interval(values_N: ArrayLike, *, seed: int = 0) -> Interval:
    """Percentile bootstrap over problems, 5000 resamples, for comparison with other reports.

    It is too short where problems are few and most scores equal: at N = 30, one sample a problem
    and p = .05 it covers 79 %. The printed intervals are the other two.
    """
    values = _checked(values_N)
    if values.ndim != 1:
        raise ValueError(f"bootstrap_interval: shape {values.shape}, expected (N,).")
    rng = np.random.default_rng(seed)
    count = len(values)
    means = []
    # In blocks, so that the memory does not grow with the problems.
    block = max(1, min(RESAMPLES, BLOCK // count))
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        means.append(rng.multinomial(count, np.full(count, 1 / count), size=size) @ values / count)
    return _interval(*np.quantile(np.concatenate(means), [0.025, 0.975]))


def why_no_interval(values_N: ArrayLike, *, is_share: bool) -> str:
    """Why a mean over problems has no interval; empty where it has one.

    Args:
        values_N: (N,) value of each problem.
        is_share: Whether the values are shares or their differences, for which `mean_interval` and
            `paired_interval` know how far they may reach; other values must differ.
    """
    values = np.asarray(values_N, dtype=np.float64)
    if len(values) < 2:
        return ONE_PROBLEM if len(values) else "no problem"
    return "" if is_share or np.ptp(values) > 0 else "all problems equal"


def is_uncertain(scores_N: ArrayLike) -> bool:
    """Whether fewer than 5 problems got any score, or fell short of 1.

    Then `mean_interval` may be too short: what the few are like is hardly known.
    """
    scores = _checked(scores_N)
    return bool(min((scores > 0).sum(), (scores < 1).sum()) < FEW)


def student_quantile(degrees: int) -> float:
    """Student's 97.5 % point: from a table up to 9 degrees of freedom, then to 5 digits.

    Source: the expansion about the normal's, Abramowitz and Stegun, 26.7.5.
    """
    if degrees <= len(STUDENT):
        return STUDENT[degrees - 1]
    z = Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def _checked(values_N: ArrayLike) -> Floats:
    values = np.asarray(values_N, dtype=np.float64)
    if values.ndim < 1 or values.shape[-1] < 2:
        raise ValueError(f"interval: shape {values.shape}, expected (…, N), at least 2 problems.")
    return values


def _interval(low: Floats, high: Floats) -> Interval:
    return Interval(float(low), float(high)) if np.ndim(low) == 0 else Interval(low, high)
