"""From finished runs to `learning.json`, from that to the table and the picture, and nothing else.

The tables in benchmarks/README.md are made from the committed JSON; a test makes them again.
"""

from __future__ import annotations

import json
import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trl_lambda.atomic_write import replace_text

from .estimators import (
    Estimate,
    first_reach,
    iqm_over_tasks,
    paired_difference,
    probability_of_improvement,
    stratified_bootstrap,
)
from .methods import METHODS
from .runs import Record, Store, versions
from .stages import Plan, applies, area, choose_methods, choose_rates, screening_scores
from .table import REFERENCE, insert, markdown
from .tasks import RETIRED, TASKS

BASELINES = ("DAPO", "GRPO", "Dr. GRPO", "GSPO", "GSPO ε 0.2")
MARGIN = -0.02  # of the non-inferiority rule; fixed before any result was looked at
FINAL_POINTS = 3  # of the 11 measurements of a run

Runs = dict[tuple[str, str], list[Record]]


def write_report(plan: Plan, store: Store, *, results: Path, readme: Path | None) -> list[Path]:
    """Writes learning.json and learning.png, and the table into the README if it has its marks.

    The README is left alone while a method of the second stage lacks a task.

    Raises:
        SystemExit: there is nothing to report yet.
    """
    data = learning(plan, store)
    results.mkdir(parents=True, exist_ok=True)
    path = results / "learning.json"
    replace_text(path, json_text(data))
    from .figure import plot  # late: others use this module where there is no matplotlib

    written = [path, plot(data, results / "learning.png")]
    if readme is not None and data["missing"]:
        print(f"{readme} is left as it is: not done yet are {', '.join(data['missing'])}.")
    elif readme is not None and insert(readme, markdown(data)):
        written.append(readme)
    return written


def json_text(data: dict[str, Any]) -> str:
    """One line for each entry of the second level: short, and a change shows where it is."""
    encode = partial(json.dumps, ensure_ascii=False)
    parts = []
    for name, value in data.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {encode(k)}: {encode(v)}" for k, v in value.items())
            parts.append(f" {encode(name)}: {{\n{inner}\n }}")
        elif value and isinstance(value, list):
            inner = ",\n".join(f"  {encode(entry)}" for entry in value)
            parts.append(f" {encode(name)}: [\n{inner}\n ]")
        else:
            parts.append(f" {encode(name)}: {encode(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def learning(plan: Plan, store: Store) -> dict[str, Any]:
    """All that the table and the picture need, and the curves behind them."""
    scores = screening_scores(plan, store.any)
    methods = choose_methods(plan, scores) if scores else []
    rates = choose_rates(plan, store.any, methods)
    runs = final_runs(plan, store, rates)
    wanted = [(m, t) for m in methods for t in plan.tasks if applies(m, t)]
    if not runs:
        raise SystemExit(
            f"{store.path} has no method with all its final runs ({len(store.records)} runs in "
            "all): there is nothing to report yet. Run --stage all first."
        )
    seconds = [r["cpu_seconds"] for r in store.records.values() if "cpu_seconds" in r]
    return {
        "versions": versions(),
        "seeds": {
            "screening": plan.screening_seeds,
            "tuning": plan.tuning_seeds,
            "final": plan.seeds,
        },
        "missing": [f"{m} on {t}" for m, t in wanted if (m, t) not in runs],
        "failed_runs": sum("error" in r for r in store.records.values()),
        "cpu_hours": round(sum(seconds) / 3600, 2),
        "margin": MARGIN,
        "final_points": FINAL_POINTS,
        "tasks": {t: task_entry(plan, t) for t in plan.tasks},
        "retired": {t: reason for t, reason in RETIRED.items() if t in plan.tasks},
        "settings": {m: METHODS[m].told | {"trainer": METHODS[m].trainer} for m in scores},
        "screening": {m: screening_entry(s) for m, s in scores.items()},
        "overall": overall(plan, runs),
        "by_task": by_task(plan, runs, rates),
        "curves": {f"{m} | {t}": curves(records) for (m, t), records in runs.items()},
    }


def task_entry(plan: Plan, name: str) -> dict[str, Any]:
    return TASKS[name].settings() | {
        "generations": plan.run(name, REFERENCE, 0.0, 0).generations,
        "learning_rates": plan.grid(name),
    }


def screening_entry(score: dict[str, Any]) -> dict[str, Any]:
    """`all_tasks` is False where the score is of fewer tasks than the others'."""
    areas = {
        task: {f"{rate:g}": round(value, 4) for rate, value in areas.items()}
        for task, areas in score["areas"].items()
    }
    return {"score": round(score["score"], 4), "all_tasks": score["all_tasks"], "areas": areas}


def final_runs(plan: Plan, store: Store, rates: dict[tuple[str, str], float]) -> Runs:
    """The pairs of method and task that have all their seeds."""
    runs = {}
    for (method, task), rate in rates.items():
        records = [store.any(plan.run(task, method, rate, seed)) for seed in plan.seeds]
        if all(records):
            runs[method, task] = [learnt(record, task, plan) for record in records]
    return runs


def learnt(record: Record, task: str, plan: Plan) -> Record:
    """The record; one of a run that crashed gets the curve of one that never got anything right."""
    if "error" not in record:
        return record
    last = TASKS[task].updates * plan.run(task, REFERENCE, 0.0, 0).generations
    return record | {"curve": [(step, 0, 0.0) for step in np.linspace(0, last, 11).tolist()]}


def final_accuracy(records: list[Record]) -> np.ndarray:
    """(S,): mean of a run's last measurements: tiny models stumble, and get up again."""
    return np.array([np.mean([p[2] for p in r["curve"][-FINAL_POINTS:]]) for r in records])


def areas(records: list[Record]) -> np.ndarray:
    return np.array([area(record) for record in records])


def overall(plan: Plan, runs: Runs) -> dict[str, Any]:
    """Means over all tasks that measure what they say, of the methods that have them all."""
    tasks = [task for task in plan.tasks if task not in RETIRED]
    whole = [m for m, _ in runs if all((m, t) in runs for t in tasks)]
    whole = list(dict.fromkeys(whole))
    final = {m: np.stack([final_accuracy(runs[m, t]) for t in tasks], 1) for m in whole}
    area = {m: np.stack([areas(runs[m, t]) for t in tasks], 1) for m in whole}
    baselines = [m for m in whole if m in BASELINES]
    best = max(baselines, key=lambda m: float(iqm_over_tasks(area[m])), default=None)
    entries = {}
    for m in whole:
        entries[m] = {
            "mean": round(float(final[m].mean()), 4),
            "final": rounded(stratified_bootstrap(iqm_over_tasks, final[m])),
            "area": rounded(stratified_bootstrap(iqm_over_tasks, area[m])),
        }
        if best is not None and m != best:
            for name, scores in (("final", final), ("area", area)):
                estimate = stratified_bootstrap(probability_of_improvement, scores[m], scores[best])
                entries[m][f"improves_{name}"] = rounded(estimate)
    return {"best_baseline": best, **entries}


def by_task(plan: Plan, runs: Runs, rates: dict[tuple[str, str], float]) -> dict[str, Any]:
    """For each task and method: accuracy, rate, difference to Dr. GRPO, speed; see `edge`."""
    return {
        task: {
            method: task_result(runs, method, task, rates[method, task])
            | edge(plan.grid(task), rates[method, task])
            for method, t in runs
            if t == task
        }
        for task in plan.tasks
    }


def task_result(runs: Runs, method: str, task: str, rate: float) -> dict[str, Any]:
    records = runs[method, task]
    final = final_accuracy(records)
    entry = {
        "learning_rate": rate,
        "start": round(float(np.mean([record["curve"][0][2] for record in records])), 4),
        "final": round(float(final.mean()), 4),
        "area": round(float(areas(records).mean()), 4),
    }
    reference = runs.get((REFERENCE, task))
    if reference is not None and method != REFERENCE:
        difference = paired_difference(final, final_accuracy(reference))
        entry["difference"] = rounded(difference)
        entry["non_inferior"] = difference.low >= MARGIN
    baselines = [final_accuracy(runs[m, task]).mean() for m in BASELINES if (m, task) in runs]
    if baselines:
        target = float(max(baselines))
        entry |= {"target": round(target, 4)} | speed(records, target)
    return entry


def edge(grid: tuple[float, ...], rate: float) -> dict[str, str]:
    """Whether the chosen rate is the smallest or largest tried: a better one may lie beyond."""
    return {"edge": "low" if rate == grid[0] else "high"} if rate in (grid[0], grid[-1]) else {}


def speed(records: list[Record], target: float) -> dict[str, Any]:
    """Median steps and tokens until a run first has the target: the best baseline's mean final.

    None where half of the runs or more never have it; `reached` is the share that has.
    """
    reaches = []
    for record in records:
        steps, tokens, accuracies = zip(*record["curve"], strict=True)
        reaches.append([first_reach(x, accuracies, target) for x in (steps, tokens)])
    steps, tokens = (statistics.median(column) for column in zip(*reaches, strict=True))
    reached = sum(math.isfinite(step) for step, _ in reaches) / len(reaches)
    return {
        "reached": round(reached, 2),
        "steps": round(steps) if math.isfinite(steps) else None,
        "tokens": round(tokens) if math.isfinite(tokens) else None,
    }


def curves(records: list[Record]) -> dict[str, Any]:
    """Accuracy of each seed, to three digits, at common steps."""
    return {
        "steps": [point[0] for point in records[0]["curve"]],
        "accuracy": [[round(point[2], 3) for point in record["curve"]] for record in records],
    }


def rounded(estimate: Estimate) -> list[float]:
    return [round(value, 4) for value in estimate]
