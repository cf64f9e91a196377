"""Comparisons of some arms beside the main one, as accuracy against generated tokens.

Arms are methods of methods.py. All have the same prompts in the same order, the same sampler, and
as many steps; what differs is the method, and with branching rollouts what a step generates. A run
has *collapsed* if it ends no better than it started.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trl_lambda.atomic_write import replace_text

from .estimators import first_reach
from .methods import BRANCHING as FORKS_OTHERWISE
from .methods import METHODS, check_names
from .plan import check_tasks
from .report import json_text, mean
from .runs import Record, Store, versions
from .table import count, insert, number, optional, shown_rate, table
from .tasks import SHORT, TASKS
from .training import Run

# For each task: the numbers of generated tokens at which accuracy is told, and an accuracy of which
# is told after how many it is met.
TOLD = {SHORT: ((20_000, 40_000, 60_000, 90_000), 0.6)}
FINAL_POINTS = 3  # measurements at the end of a run


@dataclass(frozen=True)
class Comparison:
    """How much of everything; learning rates are a task's.

    Attributes:
        name: of its file of results, and of the marks around its table.
    """

    name: str
    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def mark(self) -> str:
        return f"<!-- {self.name} -->"

    def runs(self) -> list[Run]:
        """Seeds come first: a comparison that is cut short has something of every arm."""
        return [
            Run(task, arm, rate, seed, TASKS[task].generations)
            for seed in self.seeds
            for task in self.tasks
            for rate in TASKS[task].learning_rates
            for arm in self.arms
        ]


BRANCHING = Comparison(
    "branching",
    ("GRPO", "GRPO + floor", "branch", "branch, chosen forks", *FORKS_OTHERWISE),
    (SHORT,),
)


def only(plan: Comparison, arms: Sequence[str]) -> Comparison:
    """The comparison with these arms alone.

    Raises:
        SystemExit: there is no method of that name, or a task has no answer that it asks for.
    """
    check_names(arms)
    check_tasks(arms, plan.tasks)
    return replace(plan, arms=tuple(dict.fromkeys(arms)))


def write_results(
    plan: Comparison,
    store: Store,
    *,
    results: Path,
    readme: Path | None,
    unfinished: Path | None = None,
) -> list[Path]:
    """Writes its JSON and the table into the README, if it has its marks; prints the table.

    Args:
        unfinished: the folder in the place of `results` while runs are missing, and then no README
            is written. None for none: the table says itself how many are missing.

    Raises:
        SystemExit: there is nothing to report yet.
    """
    text = json_text(collected(plan, store))
    data = json.loads(text)
    print(markdown(data))
    if data["not_run"] and unfinished is not None:
        results, readme = unfinished, None
        print(f"What there is goes to {results}; no README is written.")
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{plan.name}.json"
    replace_text(path, text)
    written = [path]
    if readme is not None and insert(readme, markdown(data), mark=plan.mark):
        written.append(readme)
    return written


def collected(plan: Comparison, store: Store) -> dict[str, Any]:
    """All that the table needs, and the curves behind it."""
    found = [(run, store.any(run)) for run in plan.runs()]
    runs = [entry(run, record) for run, record in found if record is not None]
    if not runs:
        raise SystemExit(f"{store.path} has no run of this comparison: there is nothing to report.")
    return {
        "versions": versions(),
        "tasks": {task: TASKS[task].settings() for task in plan.tasks},
        "settings": {
            arm: METHODS[arm].told
            | {"trainer": METHODS[arm].trainer, "group_share": METHODS[arm].group_share}
            for arm in plan.arms
        },
        "runs": runs,
        "not_run": sum(record is None for _, record in found),
    }


def entry(run: Run, record: Record) -> dict[str, Any]:
    names = ("task", "method", "learning_rate", "seed")
    kept = {name: getattr(run, name) for name in names}
    if "error" in record:
        return kept | {"error": record["error"].strip().splitlines()[-1]}
    return kept | {"curve": record["curve"], "cpu_seconds": record["cpu_seconds"]}


def markdown(data: dict[str, Any]) -> str:
    tables = [
        task_table(data, task)
        for task in data["tasks"]
        if any(run["task"] == task for run in data["runs"])
    ]
    left = data["not_run"]
    foot = [f"{count(left, 'run')} of the plan {'was' if left == 1 else 'were'} not run."]
    return "\n\n".join(tables + foot * bool(left)) + "\n"


def task_table(data: dict[str, Any], name: str) -> str:
    """A row for each arm and learning rate: mean over seeds, and the lowest and highest seed."""
    task, (told, target) = data["tasks"][name], TOLD[name]
    rows: dict[tuple[str, float], list[dict]] = {}
    for run in data["runs"]:
        if run["task"] == name:
            rows.setdefault((run["method"], run["learning_rate"]), []).append(run)
    order = list(data["settings"])
    keys = sorted(rows, key=lambda key: (order.index(key[0]), key[1]))
    at = [f"{tokens // 1000}k" for tokens in told]
    columns = ["arm", "rate", "seeds", *at, "ends at", "tokens", f"{target} after", "collapsed"]
    starts = [run["curve"][0][2] for of_key in rows.values() for run in of_key if "curve" in run]
    samples = task["held_out"] * task["measured"]
    steps = task["generations"]
    head = (
        f"`{name}`: accuracy at so many *generated* tokens, between two measurements by a straight "
        "line: the mean over seeds, in brackets the lowest and the highest. Runs start at "
        f"{optional(mean(starts), 3)} and have {steps} steps; a run ends at "
        f"the mean of its last {FINAL_POINTS} measurements of {samples} samples each. A run that "
        f"ends no better than it started has collapsed. “{target} after” has thousands of "
        "generated tokens, a number for each seed."
    )
    return head + "\n\n" + table(columns, [row(*key, rows[key]) for key in keys])


def row(arm: str, rate: float, runs: list[dict]) -> list[str]:
    """Cells of the runs of one arm, task and learning rate; those that crashed are counted only."""
    runs = sorted(runs, key=lambda run: run["seed"])
    told, target = TOLD[runs[0]["task"]]
    curves = [run["curve"] for run in runs if "curve" in run]
    crashed = len(runs) - len(curves)
    seeds = f"{len(runs)}" + (f" ({crashed} crashed)" if crashed else "")
    start = [arm, shown_rate(rate), seeds]
    if not curves:
        return [*start, *["–"] * (len(told) + 4)]
    ends = [final(curve) for curve in curves]
    total = np.mean([curve[-1][1] for curve in curves])
    return [
        *start,
        *(spread([value_at(curve, tokens) for curve in curves]) for tokens in told),
        spread(ends),
        f"{total / 1000:.0f}k",
        ", ".join(reached(curve, target) for curve in curves),
        f"{sum(end <= curve[0][2] for end, curve in zip(ends, curves, strict=True))}",
    ]


def final(curve: list[list[float]]) -> float:
    return float(np.mean([point[2] for point in curve[-FINAL_POINTS:]]))


def value_at(curve: list[list[float]], tokens: int) -> float | None:
    """None where the run had ended before."""
    _, positions, values = zip(*curve, strict=True)
    return float(np.interp(tokens, positions, values)) if tokens <= positions[-1] else None


def reached(curve: list[list[float]], target: float) -> str:
    _, positions, values = zip(*curve, strict=True)
    tokens = first_reach(positions, values, target)
    return f"{tokens / 1000:.0f}" if np.isfinite(tokens) else "never"


def spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "–"
    text = number(float(np.mean(known)), 3)
    return text if len(known) == 1 else f"{text} [{number(min(known), 3)}, {number(max(known), 3)}]"
