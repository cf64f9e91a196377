"""Two evaluations of the same problems: the paired difference, problem by problem."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trl_lambda.evaluation.intervals import Interval, bootstrap_interval, paired_interval
from trl_lambda.evaluation.records import Record, read_records
from trl_lambda.evaluation.runner import Change, differences
from trl_lambda.evaluation.summary import Scores, group_by_problem, problem_scores


@dataclass(frozen=True)
class Difference:
    """A metric of B less that of A.

    Attributes:
        metric: As in the tables; `avg` where the two have different numbers of samples.
        a: A's value.
        b: B's value.
        value: b − a.
        interval: 95 % interval of the difference, over problems.
        bootstrap: The same by a percentile bootstrap.
        excludes_zero: Whether 0 is outside of `interval`.
    """

    metric: str
    a: float
    b: float
    value: float
    interval: Interval
    bootstrap: Interval
    excludes_zero: bool


@dataclass(frozen=True)
class Comparison:
    """All differences on one benchmark.

    Attributes:
        name: The benchmark.
        differences: One a metric that both have.
        settings_a: What A was made with.
        settings_b: What B was made with.
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


def left_out(folder_a: str | Path, folder_b: str | Path) -> list[str]:
    """The benchmarks that only one of the folders has."""
    return sorted(set(_benchmarks(Path(folder_a))) ^ set(_benchmarks(Path(folder_b))))


def _benchmarks(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/summary.json"))


def _compare_one(name: str, folder_a: Path, folder_b: Path) -> Comparison:
    (settings_a, groups_a), (settings_b, groups_b) = _read(folder_a), _read(folder_b)
    for a, b in zip(groups_a, groups_b, strict=False):
        if (a[0].problem, a[0].answers) != (b[0].problem, b[0].answers):
            raise ValueError(f"compare: problem {a[0].problem_index} of {name} differs.")
    if len(groups_a) != len(groups_b):
        raise ValueError(
            f"compare: {name} has {len(groups_a)} problems in {folder_a} but {len(groups_b)} in "
            f"{folder_b}; expected the same problems. Evaluate both with the same limit."
        )
    scores_a, scores_b = _scores(groups_a), _scores(groups_b)
    return Comparison(
        name,
        [_difference(m, scores_a[m], scores_b[m]) for m in scores_a if m in scores_b],
        settings_a,
        settings_b,
        differences(settings_a, settings_b),
    )


def _read(folder: Path) -> tuple[Mapping[str, Any], list[list[Record]]]:
    settings = json.loads((folder / "summary.json").read_text("utf-8"))["settings"]
    groups = group_by_problem(read_records(folder / "records.jsonl"))
    if (len(groups), len(groups[0])) != (settings["num_problems"], settings["n"]):
        raise ValueError(
            f"compare: {folder} has {len(groups)} problems with {len(groups[0])} samples, expected "
            f"{settings['num_problems']} with {settings['n']}; run the evaluation to its end."
        )
    return settings, groups


def _scores(groups: list[list[Record]]) -> dict[str, Scores]:
    """As `problem_scores`, without the number of samples in the name of avg@K, which may differ."""
    scores = problem_scores(groups)
    return {"avg" if name.startswith("avg@") else name: score for name, score in scores.items()}


def _difference(metric: str, scores_a: Scores, scores_b: Scores) -> Difference:
    (values_a, trials_a), (values_b, trials_b) = scores_a, scores_b
    change_N = values_b - values_a
    interval = paired_interval(change_N, min(trials_a, trials_b))
    return Difference(
        metric,
        float(np.mean(values_a)),
        float(np.mean(values_b)),
        float(np.mean(change_N)),
        interval,
        bootstrap_interval(change_N),
        interval.excludes(0.0),
    )
