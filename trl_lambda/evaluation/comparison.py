"""Two evaluations of the same problems: the paired difference, problem by problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trl_lambda.evaluation.intervals import (
    Interval,
    average_interval,
    bootstrap_interval,
    paired_interval,
    student_interval,
    why_no_interval,
)
from trl_lambda.evaluation.records import Record, read_records
from trl_lambda.evaluation.settings import Change, differences, read_json
from trl_lambda.evaluation.summary import Scores, group_by_problem, problem_scores


@dataclass(frozen=True)
class Difference:
    """A metric of B less that of A.

    Attributes:
        metric: As in the tables; avg@K is `avg`, as the two may have different numbers of samples.
        a: A's value.
        b: B's value.
        value: b − a.
        interval: 95 % interval of the difference, over problems; `None` where there is none, as for
            one problem, which says nothing about others. `value` lies in it, but need not be its
            middle.
        bootstrap: The same by a percentile bootstrap; `None` there, and for an average.
        excludes_zero: Whether 0 is outside of `interval`; no if there is none.
        is_share: Whether the values are shares, not rewards of any size.
        no_interval: Why there is no interval.
    """

    metric: str
    a: float
    b: float
    value: float
    interval: Interval | None
    bootstrap: Interval | None
    excludes_zero: bool
    is_share: bool = True
    no_interval: str = ""


@dataclass(frozen=True)
class Comparison:
    """All differences on one benchmark.

    Attributes:
        name: The benchmark.
        differences: One a metric that both have.
        settings_a: Those of A's evaluation.
        settings_b: Those of B's evaluation.
        changed: The settings that differ: name, A's value, B's value.
    """

    name: str
    differences: list[Difference]
    settings_a: Mapping[str, Any]
    settings_b: Mapping[str, Any]
    changed: list[Change]


def compare(folder_a: str | Path, folder_b: str | Path) -> list[Comparison]:
    """Compares what two output folders of `evaluate` have in common.

    Args:
        folder_a: The folder, with a subfolder for each benchmark.
        folder_b: The same; its values less A's are the differences.

    Raises:
        ValueError: The folders have no benchmark in common, the problems differ, or an evaluation
            is unfinished.
    """
    names_a, names_b = _benchmarks(Path(folder_a)), _benchmarks(Path(folder_b))
    common = [name for name in names_a if name in names_b]
    if not common:
        raise ValueError(
            f"compare: {folder_a} has {', '.join(names_a) or 'no benchmark'}, {folder_b} has "
            f"{', '.join(names_b) or 'none'}; expected at least one in common, each a folder with "
            "records.jsonl and summary.json."
        )
    return [_compare_one(name, Path(folder_a) / name, Path(folder_b) / name) for name in common]


def average_differences(comparisons: Sequence[Comparison]) -> list[Difference]:
    """The average over benchmarks, each counting the same, of `avg` and of every reward's `avg`.

    A metric is averaged where all benchmarks have it; pass@k and maj@K are not, as K may differ.
    The intervals are `average_interval`'s; without the interval of each there is none.
    """
    if len(comparisons) < 2:
        return []
    found = []
    for metric in [one.metric for one in comparisons[0].differences]:
        rows = [row for one in comparisons for row in one.differences if row.metric == metric]
        if metric.split(" ")[-1] == "avg" and len(rows) == len(comparisons):
            found.append(_average(metric, rows))
    return found


def _average(metric: str, rows: Sequence[Difference]) -> Difference:
    known = [row.interval for row in rows if row.interval is not None]
    values = [row.value for row in rows]
    reason = next((row.no_interval for row in rows if row.no_interval), "")
    interval = None if reason else average_interval(values, known)
    return Difference(
        metric,
        float(np.mean([row.a for row in rows])),
        float(np.mean([row.b for row in rows])),
        float(np.mean(values)),
        interval,
        None,
        interval is not None and interval.excludes(0.0),
        all(row.is_share for row in rows),
        reason and f"a benchmark has none: {reason}",
    )


def left_out(folder_a: str | Path, folder_b: str | Path) -> list[str]:
    """The benchmarks that only one of the folders has."""
    return sorted(set(_benchmarks(Path(folder_a))) ^ set(_benchmarks(Path(folder_b))))


def _benchmarks(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/summary.json"))


def _compare_one(name: str, folder_a: Path, folder_b: Path) -> Comparison:
    (settings_a, groups_a), (settings_b, groups_b) = _read(folder_a), _read(folder_b)
    for a, b in zip(groups_a, groups_b, strict=False):
        for field in ("problem", "answers"):
            before, now = getattr(a[0], field), getattr(b[0], field)
            if before != now:
                raise ValueError(
                    f"compare: problem {a[0].problem_index} of {name} differs: {field} is "
                    f"{before!r:.100} in {folder_a} and {now!r:.100} in {folder_b}."
                )
    if len(groups_a) != len(groups_b):
        raise ValueError(
            f"compare: {name} has {len(groups_a)} problems in {folder_a} but {len(groups_b)} in "
            f"{folder_b}; expected the same problems. Evaluate both with the same limit."
        )
    scores_a, scores_b = _scores(groups_a), _scores(groups_b)
    compared = [_difference(m, scores_a[m], scores_b[m]) for m in scores_a if m in scores_b]
    if not compared:
        raise ValueError(
            f"compare: {name} has {', '.join(scores_a)} in {folder_a} and {', '.join(scores_b)} in "
            f"{folder_b}, expected a metric in common; evaluate both with the same rewards."
        )
    return Comparison(
        name,
        [one for one in compared if one is not None],
        settings_a,
        settings_b,
        differences(settings_a, settings_b),
    )


def _read(folder: Path) -> tuple[Mapping[str, Any], list[list[Record]]]:
    summary = read_json(folder / "summary.json")
    settings = summary.get("settings") if isinstance(summary, dict) else None
    if not settings:
        raise ValueError(f"{folder / 'summary.json'}: no settings; expected what evaluate wrote.")
    records = read_records(folder / "records.jsonl")
    if not records:
        raise ValueError(f"compare: {folder} has no records; run the evaluation to its end.")
    groups = group_by_problem(records)
    if (len(groups), len(groups[0])) != (settings["num_problems"], settings["n"]):
        raise ValueError(
            f"compare: {folder} has {len(groups)} problems with {len(groups[0])} samples, expected "
            f"{settings['num_problems']} with {settings['n']}; run the evaluation to its end."
        )
    return settings, groups


def _scores(groups: list[list[Record]]) -> dict[str, Scores]:
    """As `problem_scores`, without the number of samples in the name of avg@K, which may differ."""
    suffix = f"avg@{len(groups[0])}"
    return {
        f"{name.removesuffix(suffix)}avg" if name.endswith(suffix) else name: score
        for name, score in problem_scores(groups).items()
    }


def _difference(metric: str, scores_a: Scores, scores_b: Scores) -> Difference | None:
    """Over the problems that are judged in both; `None` where there is none."""
    (values_a, trials_a), (values_b, trials_b) = scores_a, scores_b
    judged = ~(np.isnan(values_a) | np.isnan(values_b))
    values_a, values_b = values_a[judged], values_b[judged]
    change_N = values_b - values_a
    if not len(change_N):
        return None
    is_share = trials_a is not None and trials_b is not None
    reason = why_no_interval(change_N, is_share=is_share)
    if reason:
        interval = None
    elif is_share:
        interval = paired_interval(change_N, min(trials_a, trials_b))
    else:
        interval = student_interval(change_N)
    return Difference(
        metric,
        float(np.mean(values_a)),
        float(np.mean(values_b)),
        float(np.mean(change_N)),
        interval,
        None if reason else bootstrap_interval(change_N),
        interval is not None and interval.excludes(0.0),
        is_share,
        reason,
    )
