"""From finished runs to `learning.json`, from that to the tables and the picture, and nothing else.

The tables in benchmarks/README.md are made from the committed JSON; a test makes them again.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trl_lambda.atomic_write import replace_text

from .estimators import (
    Estimate,
    interquartile_mean,
    iqm_over_tasks,
    paired_difference,
    probability_of_improvement,
    stratified_bootstrap,
)
from .methods import METHODS
from .plan import (
    Lookup,
    Plan,
    best_rate,
    chosen_rates,
    final,
    final_accuracy,
    grid,
    steps_below,
    tuning,
)
from .runs import Record, Store, versions
from .table import insert, markdown, measuring
from .tasks import TASKS
from .verdict import REFERENCE, tokens_ratio, verdict

INFINITIES = ("-inf", "inf")  # as text
LAST = 5  # generations at the end of a run, over which its rollouts are averaged
# A task measures what its name says where the reference's runs keep to these; else no mean has it.
KEPT_TEXT, DECIDED, LENGTH, FALL = 0.9, 0.9, 0.5, 0.03

Cell = tuple[str, str]  # task, method
Runs = dict[Cell, list[Record]]


def write_report(
    plan: Plan,
    store: Store,
    *,
    results: Path,
    readme: Path | None,
    unfinished: Path | None = None,
) -> list[Path]:
    """Writes learning.json and learning.png, and the tables into the README if it has its marks.

    The README is left alone while a method lacks a task.

    Args:
        unfinished: the folder in the place of `results` while a method lacks a task.

    Raises:
        SystemExit: there is nothing to report yet.
    """
    text = json_text(learning(plan, store))
    data = json.loads(text)
    if data["missing"]:
        results, readme = unfinished or results, None
        print(
            f"Not done yet: {', '.join(data['missing'])}. What there is goes to {results}; no "
            "README is written."
        )
    results.mkdir(parents=True, exist_ok=True)
    path = results / "learning.json"
    replace_text(path, text)
    from .figure import plot  # late: others use this module where there is no matplotlib

    written = [path, plot(data, results / "learning.png")]
    if readme is not None and insert(readme, markdown(data)):
        written.append(readme)
    return written


def json_text(data: dict[str, Any]) -> str:
    """One line for each entry of the second level: short, and a change shows where it is.

    JSON has no infinities and no NaN: those are the texts "inf" and "-inf", this is null. See
    `read_results`.
    """
    encode = partial(json.dumps, ensure_ascii=False, allow_nan=False)
    parts = []
    for name, value in _plain(data).items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {encode(k)}: {encode(v)}" for k, v in value.items())
            parts.append(f" {encode(name)}: {{\n{inner}\n }}")
        elif value and isinstance(value, list):
            inner = ",\n".join(f"  {encode(entry)}" for entry in value)
            parts.append(f" {encode(name)}: [\n{inner}\n ]")
        else:
            parts.append(f" {encode(name)}: {encode(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else INFINITIES[value > 0]
    return value


def read_results(path: Path) -> dict[str, Any]:
    """What `json_text` wrote, with its infinities as numbers."""
    return _numbers(json.loads(path.read_text(encoding="utf-8")))


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _numbers(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return float(value) if value in INFINITIES else value


def learning(plan: Plan, store: Store) -> dict[str, Any]:
    """All that the tables and the picture need, and the curves behind them."""
    runs = final_runs(plan, store.any)
    if not runs:
        raise SystemExit(
            f"{store.path} has no method with all its final runs ({len(store.records)} runs in "
            "all): there is nothing to report yet."
        )
    records = planned(plan, store.any)
    seconds = [record["cpu_seconds"] for record in records if "cpu_seconds" in record]
    tasks = {task: task_entry(task, runs) for task in plan.tasks}
    return {
        "versions": versions(),
        "seeds": {"tuning": plan.tuning_seeds, "final": plan.seeds},
        "missing": [f"{m} on {t}" for t, m in plan.cells() if (t, m) not in runs],
        "runs": len(records),
        "failed_runs": sum("error" in record for record in records),
        "cpu_hours": round(sum(seconds) / 3600, 2),
        "tasks": tasks,
        "settings": {m: vars(METHODS[m]) for m in plan.methods},
        "overall": overall(plan, runs, measuring({"tasks": tasks})),
        "results": {
            f"{m} | {t}": result(runs, (t, m), grid(plan, store.any, t, m)) for t, m in runs
        },
        "curves": {f"{m} | {t}": curves(records) for (t, m), records in runs.items()},
    }


def planned(plan: Plan, lookup: Lookup) -> list[Record]:
    """The records of this plan's runs; a folder may have those of others as well."""
    runs = [*tuning(plan, lookup), *final(plan, chosen_rates(plan, lookup))]
    return [record for run in runs if (record := lookup(run)) is not None]


def final_runs(plan: Plan, lookup: Lookup) -> Runs:
    """The cells that have all their seeds; a run that crashed is one that never got it right."""
    runs = {}
    for (task, method), rate in chosen_rates(plan, lookup).items():
        records = [lookup(plan.run(task, method, rate, seed)) for seed in plan.seeds]
        if all(records):
            runs[task, method] = records
    return runs


def task_entry(name: str, runs: Runs) -> dict[str, Any]:
    told = TASKS[name].settings() | {"steps_below": steps_below(name)}
    ran = [r for (task, _), records in runs.items() for r in records if task == name]
    starts = [record["curve"][0] for record in ran if "curve" in record]
    if starts:
        told |= {"start": starts[0][2], "start_pass_at_k": starts[0][3]}
    return told | {"faults": faults(name, runs.get((name, REFERENCE), []))}


def faults(task: str, records: Sequence[Record]) -> list[str]:
    """Why a task does not measure what its name says, by the reference's own runs; or nothing.

    While the reference has not been run, nothing is known against a task.
    """
    if not any("curve" in record for record in records):
        return [f"all {len(records)} runs of {REFERENCE} failed"] if records else []
    kept, length = (late_mean(records, name) or 0.0 for name in ("format", "length"))
    decided = decided_failures(records)
    found = []
    if kept < KEPT_TEXT:
        found.append(f"{kept:.0%} of the last completions keep their text")
    if decided is not None and decided < DECIDED:
        found.append(f"{decided:.0%} of the failures are decided where the name says")
    if abs(length - TASKS[task].tokens) > LENGTH:
        found.append(f"the last completions have {length:.1f} of {TASKS[task].tokens} tokens")
    if (fall := largest_fall(records)) > FALL:
        found.append(f"{REFERENCE}'s mean accuracy falls by {fall:.2f} on the way")
    return found


def decided_failures(records: Sequence[Record]) -> float | None:
    """The share of all failures of the runs that were decided where the task says."""
    steps = [
        (share, 1 - reward)
        for record in records
        for share, reward in zip(record.get("decided", []), record.get("rewards", []), strict=True)
        if share is not None
    ]
    failed = sum(failures for _, failures in steps)
    return sum(share * failures for share, failures in steps) / failed if failed else None


def largest_fall(records: Sequence[Record]) -> float:
    """How far the mean accuracy of the runs falls below where it has been."""
    ran = [[point[2] for point in r["curve"]] for r in records if "curve" in r]
    mean_curve = np.mean(ran, axis=0) if ran else np.zeros(1)
    return float(np.max(np.maximum.accumulate(mean_curve) - mean_curve))


def overall(plan: Plan, runs: Runs, tasks: Sequence[str]) -> dict[str, Any]:
    """Interquartile means of final accuracy over the tasks, of the methods that have them all."""
    whole = [m for m in plan.methods if tasks and all((t, m) in runs for t in tasks)]
    ends = {m: np.stack([finals(runs[t, m]) for t in tasks], 1) for m in whole}
    entries = {}
    for m in whole:
        estimate = stratified_bootstrap(iqm_over_tasks, ends[m])
        entries[m] = {"mean": round(float(ends[m].mean()), 4), "final": rounded(estimate)}
        if m != REFERENCE and REFERENCE in ends:
            chance = stratified_bootstrap(probability_of_improvement, ends[m], ends[REFERENCE])
            entries[m]["improves"] = rounded(chance)
    return entries


def finals(records: Sequence[Record]) -> np.ndarray:
    """(S,): final accuracies."""
    return np.array([final_accuracy(record) for record in records])


def final_passes(records: Sequence[Record]) -> np.ndarray:
    """(S,): pass@8 at the end."""
    return np.array([0.0 if "error" in r else r["curve"][-1][3] for r in records])


def result(runs: Runs, cell: Cell, tried: dict[float, float | None]) -> dict[str, Any]:
    """What the runs of a method on a task end with, what they took, and how they compare."""
    task, method = cell
    records = runs[cell]
    rate = records[0]["learning_rate"]
    ends = finals(records)
    entry = {
        "learning_rate": rate,
        "tried": {f"{r:g}": s for r, s in tried.items()},
        "edge": best_rate(tried) in (min(tried), max(tried)),
        "final": round(float(ends.mean()), 4),
        "interquartile": round(float(interquartile_mean(ends)), 4),
        "lowest": round(float(ends.min()), 4),
        "pass_at_k": round(float(final_passes(records).mean()), 4),
        "collapsed": sum(map(collapsed, records)),
    }
    entry |= {name: late_mean(records, name) for name in ("entropy", "length", "format", "decided")}
    entry |= {
        "generated_tokens": mean(r["curve"][-1][1] for r in records if "curve" in r),
        "seconds": mean(r.get("cpu_seconds") for r in records),
    }
    if method != REFERENCE and (task, REFERENCE) in runs:
        entry |= compared(records, runs[task, REFERENCE])
    return entry


def collapsed(record: Record) -> bool:
    """Whether a run ends no better than it started."""
    return "error" in record or final_accuracy(record) <= record["curve"][0][2]


def mean(values: Iterable[float | None]) -> float | None:
    """Of the values that there are; NaN, of a policy that broke, is none."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    return round(statistics.fmean(there), 4) if there else None


def late_mean(records: Sequence[Record], name: str) -> float | None:
    """Of the last generations of all runs, those that have a value."""
    return mean(v for r in records for v in r.get(name, [])[-LAST:])


def compared(ours: Sequence[Record], theirs: Sequence[Record]) -> dict[str, Any]:
    """Differences to the reference by seed, and the verdict; see `verdict`."""
    accuracy = paired_difference(finals(ours), finals(theirs))
    pass_at_k = paired_difference(final_passes(ours), final_passes(theirs))
    ratio = tokens_ratio([by_tokens(r) for r in ours], [by_tokens(r) for r in theirs])
    return {
        "difference": rounded(accuracy),
        "pass_at_k_difference": rounded(pass_at_k),
        "tokens_to_reference": None if ratio is None else round(ratio, 4),
        "verdict": verdict(accuracy, pass_at_k, ratio),
    }


def by_tokens(record: Record) -> tuple[list[float], list[float]]:
    curve = record.get("curve", [])
    return [point[1] for point in curve], [point[2] for point in curve]


def curves(records: Sequence[Record]) -> dict[str, Any]:
    """Accuracy of each seed, to three digits, at common steps, with the mean tokens there.

    Runs that failed have no curve; where all have, the lists are empty.
    """
    ran = [record["curve"] for record in records if "curve" in record]
    return {
        "steps": [point[0] for point in ran[0]] if ran else [],
        "tokens": [round(statistics.fmean(p[1] for p in at)) for at in zip(*ran, strict=True)],
        "accuracy": [[round(point[2], 3) for point in curve] for curve in ran],
    }


def rounded(estimate: Estimate) -> list[float]:
    return [round(value, 4) for value in estimate]
