"""From records to the numbers that are printed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trl_lambda.evaluation.intervals import (
    FEW,
    ONE_PROBLEM,
    Interval,
    average_interval,
    bootstrap_interval,
    is_uncertain,
    mean_interval,
    student_interval,
    why_no_interval,
)
from trl_lambda.evaluation.metrics import avg_at_k, maj_at_k, pass_at_k
from trl_lambda.evaluation.records import Record
from trl_lambda.evaluation.votes import count_votes
from trl_lambda.rewards import REASONS
from trl_lambda.versions import installed_versions

PACKAGES = ("torch", "transformers", "vllm", "math-verify")

# Scores of each problem, (N,), and the independent draws that each of them stands for; `None` for
# rewards, which may be any numbers. NaN for a problem of which no sample was judged.
Scores = tuple[NDArray[np.float64], float | None]


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
    """Scores of each problem by metric.

    The math reward gives avg@K, pass@2, pass@4, … pass@K and maj@K. Another reward gives the mean
    of what it returned, as `<name> avg@K`, and `<name> pass@k` where it returned 0 and 1 only.

    Args:
        groups: The K records of each problem.
        votes: Whether to count votes, which compares answers with each other.
    """
    num_samples = len(groups[0])
    scores: dict[str, Scores] = {}
    if groups[0][0].correct is not None:
        rights = [[bool(record.correct) for record in group] for group in groups]
        scores |= _shares(np.array(rights, dtype=np.float64))
        if votes and num_samples > 2:
            voted = np.array([maj_at_k(one) for one in count_votes(groups)])
            scores[f"maj@{num_samples}"] = (voted, 1.0)
    for name in groups[0][0].rewards:
        given = [[record.rewards[name] for record in group] for group in groups]
        values_NK = np.array(given, dtype=np.float64)  # None becomes NaN
        if np.isin(values_NK, (0.0, 1.0)).all():
            found = _shares(values_NK)
        else:
            found = {f"avg@{num_samples}": (_judged_mean(values_NK), None)}
        scores |= {f"{name} {metric}": one for metric, one in found.items()}
    return scores


def _shares(right_NK: NDArray[np.float64]) -> dict[str, Scores]:
    num_samples = right_NK.shape[1]
    counts_N = right_NK.sum(1).astype(np.int64)
    found: dict[str, Scores] = {
        f"avg@{num_samples}": (avg_at_k(counts_N, num_samples), float(num_samples))
    }
    for k in pass_ks(num_samples):
        found[f"pass@{k}"] = (pass_at_k(counts_N, num_samples, k), num_samples / k)
    return found


def _judged_mean(values_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    judged_N = (~np.isnan(values_NK)).sum(1)
    return np.where(judged_N > 0, np.nansum(values_NK, 1) / np.maximum(judged_N, 1), np.nan)


def pass_ks(num_samples: int) -> list[int]:
    """2, 4, 8, … and the number of samples; pass@1 is avg@K."""
    powers = [2**i for i in range(1, num_samples.bit_length()) if 2**i < num_samples]
    return powers + [num_samples] * (num_samples > 1)


def summarize(
    records: Sequence[Record], settings: Mapping[str, Any], *, votes: bool = True
) -> dict[str, Any]:
    """Returns everything that `summary.json` holds.

    `format` is the share of samples with a marked answer, `truncated` the share that ran into
    `max_tokens`; an unreadable gold counts as wrong and shows under `reasons`. Without the math
    reward there are neither `format` nor `reasons`.

    Args:
        records: All samples of an evaluation.
        settings: Those of the evaluation that made them.
        votes: Whether to compute maj@K.
    """
    groups = group_by_problem(records)
    lengths = [record.num_tokens for record in records]
    summary: dict[str, Any] = {
        "settings": dict(settings),
        "num_problems": len(groups),
        "n": len(groups[0]),
        "metrics": {
            name: _with_intervals(*scores)
            for name, scores in problem_scores(groups, votes=votes).items()
        },
        "truncated": _share(record.truncated for record in records),
    }
    if records[0].correct is not None:
        reasons = Counter(record.reason for record in records)
        summary["format"] = _share(record.extracted is not None for record in records)
        summary["reasons"] = {reason: reasons[reason] for reason in REASONS}
    summary["tokens"] = {"mean": sum(lengths) / len(lengths), "max": max(lengths)}
    summary["versions"] = installed_versions(*PACKAGES)
    return summary


def _share(flags: Iterable[bool]) -> float:
    listed = list(flags)
    return sum(listed) / len(listed)


def _with_intervals(scores_N: NDArray[np.float64], trials: float | None) -> dict[str, Any]:
    """A metric: its value, and its intervals or why there are none."""
    judged_N = scores_N[~np.isnan(scores_N)]
    found: dict[str, Any] = {"value": float(judged_N.mean()) if len(judged_N) else None}
    if len(judged_N) < len(scores_N):
        found["problems_judged"] = len(judged_N)
    if trials is None:
        found["unit"] = "reward"
    if reason := why_no_interval(judged_N, is_share=trials is not None):
        return found if reason == ONE_PROBLEM else found | {"no_interval": reason}
    interval = student_interval(judged_N) if trials is None else mean_interval(judged_N, trials)
    return found | {
        "interval": list(interval),
        "uncertain": len(judged_N) < FEW if trials is None else is_uncertain(judged_N),
        "bootstrap": list(bootstrap_interval(judged_N)),
    }


def averages(summaries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The averages over benchmarks, each counting the same, of avg@K and of every reward's.

    Args:
        summaries: Results of `summarize`, one a benchmark.

    Returns:
        By metric (`avg`, `<reward> avg`) `value`, and `interval`, see `average_interval`, or
        `no_interval`, the reason why there is none. pass@k and maj@K have no average, as K may
        differ from benchmark to benchmark. Metrics that a benchmark lacks are left out.
    """
    by_name = [averaged_metrics(summary["metrics"], summary["n"]) for summary in summaries]
    common = [name for name in by_name[0] if all(name in metrics for metrics in by_name)]
    return {name: _average([metrics[name] for metrics in by_name]) for name in common}


def averaged_metrics(metrics: Mapping[str, Any], num_samples: int) -> dict[str, Any]:
    """The metrics that are averaged over benchmarks, as `avg` and `<reward> avg`."""
    end = f"@{num_samples}"
    return {
        name.removesuffix(end): metric
        for name, metric in metrics.items()
        if name.split(" ")[-1] == f"avg{end}"
    }


def _average(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [metric["value"] for metric in metrics]
    if None in values:
        return {"value": None, "no_interval": "a benchmark has no value"}
    found: dict[str, Any] = {"value": sum(values) / len(values)}
    if any(metric.get("unit") for metric in metrics):
        found["unit"] = "reward"
    if without := [one for one in metrics if "interval" not in one]:
        reason = without[0].get("no_interval", ONE_PROBLEM)
        return found | {"no_interval": f"a benchmark has none: {reason}"}
    ends = [Interval(*metric["interval"]) for metric in metrics]
    return found | {
        "interval": list(average_interval(values, ends)),
        "uncertain": any(metric["uncertain"] for metric in metrics),
    }
