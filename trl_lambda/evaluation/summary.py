"""From records to the numbers that are printed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trl_lambda.evaluation.intervals import bootstrap_interval, is_uncertain, mean_interval
from trl_lambda.evaluation.metrics import avg_at_k, maj_at_k, pass_at_k
from trl_lambda.evaluation.records import Record
from trl_lambda.evaluation.votes import count_votes
from trl_lambda.rewards import REASONS
from trl_lambda.versions import installed_versions

PACKAGES = ("torch", "transformers", "vllm", "math-verify")

# Scores of each problem, (N,), and the independent draws that each of them stands for.
Scores = tuple[NDArray[np.float64], float]


def group_by_problem(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each problem, ordered by sample.

    Raises:
        ValueError: Problems differ in their number of samples, so a sample is missing.
    """
    groups: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda one: one.key):
        groups.setdefault(record.problem_index, []).append(record)
    sizes = Counter(map(len, groups.values()))
    if len(sizes) != 1 or sorted(groups) != list(range(len(groups))):
        raise ValueError(
            f"records: {len(groups)} problems with {dict(sizes)} (samples: problems), expected "
            "problems 0, 1, … with the same number of samples; run the evaluation to its end."
        )
    return list(groups.values())


def problem_scores(groups: Sequence[Sequence[Record]], *, votes: bool = True) -> dict[str, Scores]:
    """Scores of each problem by metric: avg@K, pass@2, pass@4, … pass@K and maj@K.

    Args:
        groups: The K records of each problem.
        votes: Whether to count votes, which compares answers with each other.
    """
    num_samples = len(groups[0])
    counts_N = np.array([sum(record.correct for record in group) for group in groups])
    scores = {f"avg@{num_samples}": (avg_at_k(counts_N, num_samples), float(num_samples))}
    for k in pass_ks(num_samples):
        scores[f"pass@{k}"] = (pass_at_k(counts_N, num_samples, k), num_samples / k)
    if votes and num_samples > 2:
        voted = np.array([maj_at_k(one) for one in count_votes(groups)])
        scores[f"maj@{num_samples}"] = (voted, 1.0)
    return scores


def pass_ks(num_samples: int) -> list[int]:
    """2, 4, 8, … and the number of samples; pass@1 is avg@K."""
    powers = [2**i for i in range(1, num_samples.bit_length()) if 2**i < num_samples]
    return powers + [num_samples] * (num_samples > 1)


def summarize(
    records: Sequence[Record], settings: Mapping[str, Any], *, votes: bool = True
) -> dict[str, Any]:
    """Returns everything that `summary.json` holds.

    `format` is the share of samples with a marked answer, `truncated` the share that ran into
    `max_tokens`; an unreadable gold counts as wrong and shows under `reasons`.

    Args:
        records: All samples of an evaluation.
        settings: What they were made with.
        votes: Whether to compute maj@K.
    """
    groups = group_by_problem(records)
    lengths = [record.num_tokens for record in records]
    reasons = Counter(record.reason for record in records)
    return {
        "settings": dict(settings),
        "num_problems": len(groups),
        "n": len(groups[0]),
        "metrics": {
            name: _with_intervals(*scores)
            for name, scores in problem_scores(groups, votes=votes).items()
        },
        "truncated": mean(record.truncated for record in records),
        "format": mean(record.extracted is not None for record in records),
        "tokens": {"mean": mean(lengths), "max": max(lengths)},
        "reasons": {reason: reasons[reason] for reason in REASONS},
        "versions": installed_versions(*PACKAGES),
    }


def _with_intervals(scores_N: NDArray[np.float64], trials: float) -> dict[str, Any]:
    if len(scores_N) < 2:  # Nothing to say about other problems.
        return {"value": float(scores_N.mean())}
    return {
        "value": float(scores_N.mean()),
        "interval": list(mean_interval(scores_N, trials)),
        "uncertain": is_uncertain(scores_N),
        "bootstrap": list(bootstrap_interval(scores_N)),
    }
