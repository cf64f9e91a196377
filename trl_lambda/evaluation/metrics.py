"""Scores of problems: counts in, floats out.

Shape suffixes: N problems, K samples of each. Every function gives one score in [0, 1] a problem;
the metric is their mean, so that one interval (`intervals`) serves all of them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def avg_at_k(counts_N: ArrayLike, num_samples: int) -> Floats:
    """Share of right samples.

    Args:
        counts_N: (N,) right samples of each problem.
        num_samples: K.
    """
    return _checked(counts_N, num_samples) / num_samples


def pass_at_k(counts_N: ArrayLike, num_samples: int, k: int) -> Floats:
    """Unbiased estimate of the probability that one of k samples is right, 1 − C(n−c, k)/C(n, k).

    C(n−c−1, k)/C(n−c, k) = 1 − k/(n−c), so the ratio for c is the product of these over 0, …, c−1.
    Its logarithms are summed in extended precision, from 1 − exp of which small values keep all
    their digits: O(n) steps for all problems, nothing overflows. k = 1 is `avg_at_k`; k = n says
    whether any sample is right. Source: Chen et al. 2021, arXiv 2107.03374, eq. 1.

    Args:
        counts_N: (N,) right samples of each problem, the c of the formula.
        num_samples: K, the n of the formula.
        k: From 1 to K.
    """
    counts = _checked(counts_N, num_samples)
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@k: k is {k}, expected 1 to {num_samples}, the samples a problem.")
    passes = np.ones(num_samples + 1)  # where fewer than k are wrong
    left = np.arange(num_samples, k, -1, dtype=np.longdouble)  # n − c, for c < n − k
    passes[0] = 0.0
    passes[1 : len(left) + 1] = -np.expm1(np.cumsum(np.log1p(-k / left)))
    return passes[counts]


def maj_at_k(votes: Sequence[tuple[int, bool]]) -> float:
    """Whether the answer given most often is right, for one problem.

    Where several answers lead, the probability that one drawn from them is right. Without votes 0.

    Args:
        votes: For each class of equivalent answers its samples and whether it is right.
    """
    most = max((count for count, _ in votes), default=0)
    leading = [right for count, right in votes if count == most]
    return sum(leading) / len(leading) if leading else 0.0


def _checked(counts_N: ArrayLike, num_samples: int) -> NDArray[np.int64]:
    counts = np.asarray(counts_N)
    if counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(
            f"counts: {counts.dtype} of shape {counts.shape}, expected integers of shape (N,)."
        )
    if num_samples < 1 or (counts < 0).any() or (counts > num_samples).any():
        wrong = [count for count in counts.tolist() if not 0 <= count <= num_samples]
        raise ValueError(f"counts: {wrong[:9]}, expected 0 to {num_samples}, at least 1.")
    return counts
