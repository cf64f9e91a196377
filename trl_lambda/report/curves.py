"""Metrics over steps: what the run view draws, as HTML and as PNG.

Runs whose settings differ in the seed alone are one line, their mean, with an interval.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from dataclasses import dataclass
from typing import Any

from ..credit_log.reading import Run
from ..evaluation.intervals import student_quantile

ACCURACY = "rewards/*/mean"
# (name that TRL or we log, what the chart is called, what it shows), in the order of the page.
CHARTS = (
    ("reward", "Reward", "Mean over completions of the sum of all reward functions, weighted."),
    (ACCURACY, "Accuracy", "Mean of one reward function; where it is 1 or 0, the share of right."),
    ("completions/mean_length", "Length of completions (tokens)", "Mean, cut ones included."),
    (
        "entropy",
        "Entropy (nats per token)",
        "Mean over tokens; near 0 it samples one text.",
    ),
    (
        "clip_ratio/region_mean",
        "Share of clipped tokens",
        "Tokens whose ratio left the clip range, so that they gave no gradient.",
    ),
    (
        "process_sets/path_depth",
        "Path depth",
        "Along a completion, how many different sizes its process sets have between one completion "
        "and the whole group; 0 where completions part at once.",
    ),
    (
        "process_sets/intermediate_proportion",
        "Intermediate proportion",
        "Share of a completion's tokens that at least one other completion shares.",
    ),
)


@dataclass(frozen=True)
class Line:
    """One metric of the runs that differ in the seed alone.

    Attributes:
        name: the runs' in the legend.
        held_out: whether it was logged by an evaluation (`eval_` before the metric's name).
        steps, mean: the curve, at the steps that all the runs have logged.
        low, high: 95 % Student interval of the mean over seeds; None with a single run.
    """

    name: str
    held_out: bool
    steps: list[int]
    mean: list[float]
    low: list[float] | None
    high: list[float] | None


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes; `about` says what they show."""

    metric: str
    title: str
    lines: list[Line]
    about: str = ""


def charts(runs: list[Run]) -> list[Chart]:
    """Every chart of the run view; one that nobody logged has no lines."""
    seeds = same_but_for_seed(runs)
    found = []
    for metric, title, about in CHARTS:
        names = _accuracies(runs) if metric == ACCURACY else [metric]
        for name in names or [metric]:
            label = f"{title}: {name.split('/')[1]}" if metric == ACCURACY and names else title
            found.append(Chart(name, label, _lines(seeds, name), about))
    return found


def same_but_for_seed(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs by legend name; runs whose settings differ in nothing but `seed` come together."""
    together: dict[str, list[Run]] = {}
    for index, run in enumerate(runs):
        rest = {name: value for name, value in run.settings.items() if name != "seed"}
        seeded = "seed" in run.settings
        key = json.dumps(rest, sort_keys=True, default=str) if seeded else f"run {index}"
        together.setdefault(key, []).append(run)
    named: dict[str, list[Run]] = {}
    for members in together.values():
        named[_unused(_legend_name(members), named)] = members
    return named


def _legend_name(members: list[Run]) -> str:
    if len(members) == 1:
        return members[0].name
    stem = re.sub(r"[-_ .=]*(seed)?[-_ .=]*\d+$", "", members[0].name)
    return f"{stem or members[0].name} ({len(members)} seeds)"


def _unused(name: str, taken: dict[str, Any]) -> str:
    """`name`, or `name [2]` and so on where it is taken."""
    candidates = (name if n == 1 else f"{name} [{n}]" for n in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)


def _accuracies(runs: list[Run]) -> list[str]:
    """`rewards/<function>/mean` of every function that any of the runs logged."""
    found: dict[str, None] = {}
    for run in runs:
        for log in run.logs:
            for name in log.get("metrics", {}):
                plain = name.removeprefix("eval_")
                if plain.startswith("rewards/") and plain.endswith("/mean"):
                    found[plain] = None
    return list(found)


def _lines(seeds: dict[str, list[Run]], metric: str) -> list[Line]:
    lines = []
    for name, members in seeds.items():
        for held_out in (False, True):
            logged = f"eval_{metric}" if held_out else metric
            line = _line(name, held_out, [_values(run, logged) for run in members])
            lines += [line] if line.steps else []
    return lines


def _values(run: Run, metric: str) -> dict[int, float]:
    """Value by step; the last log of a step stands."""
    logs = (log for log in run.logs if (log.get("metrics") or {}).get(metric) is not None)
    return {log["step"]: log["metrics"][metric] for log in logs}


def _line(name: str, held_out: bool, members: list[dict[int, float]]) -> Line:
    steps = sorted(set.intersection(*(set(values) for values in members)))
    columns = [[values[step] for values in members] for step in steps]
    mean = [statistics.fmean(column) for column in columns]
    half = [half_interval(column) for column in columns] if len(members) > 1 else None
    return Line(
        name=name,
        held_out=held_out,
        steps=steps,
        mean=mean,
        low=half and [m - h for m, h in zip(mean, half, strict=True)],
        high=half and [m + h for m, h in zip(mean, half, strict=True)],
    )


def half_interval(values: list[float]) -> float:
    """Half the 95 % Student interval of a mean: t · s/√n over n ≥ 2 values."""
    n = len(values)
    return student_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n)
