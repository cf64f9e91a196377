"""From finished runs to `language.json`, `.csv` and `.png`; from the JSON to the table."""

from __future__ import annotations

import csv
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trl_lambda.atomic_write import replace_text
from trl_lambda.versions import TRAINING, installed_versions

from ..learning.estimators import interquartile_mean, paired_difference
from ..learning.report import json_text, mean, rounded
from ..learning.runs import Record, Store
from ..learning.table import count, insert, number, optional, signed_interval, table
from ..learning.verdict import tokens_ratio, verdict
from . import arms
from .plan import REFERENCE, Plan, chosen_rates, final

MARK = "<!-- language -->"
PICTURE = "language.png"
# Of a run's last measurement; means over seeds are shown.
SHOWN = ("accuracy", "pass_at_k", "entropy", "length", "format")
Runs = dict[str, list[Record]]


def write_report(plan: Plan, store: Store, *, results: Path, readme: Path | None) -> list[Path]:
    """Writes language.json, .csv and .png, and the table into the README if it has its marks.

    The README is left alone while an arm lacks one of its runs. The picture takes matplotlib, which
    a machine with a pack may lack; there it is left out.

    Raises:
        SystemExit: no arm has all its final runs.
    """
    data = language(plan, store)
    results.mkdir(parents=True, exist_ok=True)
    replace_text(results / "language.json", json_text(data))
    replace_text(results / "language.csv", csv_text(data))
    written = [results / "language.json", results / "language.csv"]
    if find_spec("matplotlib") is None:
        print(f"No picture: matplotlib is not installed here. --report with it draws {PICTURE}.")
    else:
        from .figure import plot

        written.append(plot(data, results / PICTURE))
    if data["missing"]:
        left = f" {readme} is left as it is." if readme else ""
        print(f"Not done yet are {', '.join(f'`{arm}`' for arm in data['missing'])}.{left}")
    elif readme is not None and insert(readme, markdown(data), mark=MARK):
        written.append(readme)
    return written


def language(plan: Plan, store: Store) -> dict[str, Any]:
    """All that the table needs, and the curves behind it."""
    rates = chosen_rates(plan, store.any)
    runs = final_runs(plan, store, rates)
    if not runs:
        raise SystemExit(
            f"{store.path} has no arm with all its final runs ({len(store.records)} runs in all): "
            "there is nothing to report yet. Run without --report first."
        )
    return {
        "task": plan.task,
        "start": plan.made,
        "versions": installed_versions(*TRAINING),
        "rates": plan.rates,
        "seeds": {"tuning": plan.tuning_seeds if len(plan.rates) > 1 else (), "final": plan.seeds},
        "size": vars(plan.size),
        "missing": [arm for arm in plan.arms if arm not in runs],
        "failed_runs": failures(plan, store, rates),
        "settings": {arm: arms.settings(arm) for arm in runs},
        "arms": {arm: entry(arm, runs, rates[arm], plan) for arm in runs},
        "runs": {f"{arm} | {r['seed']}": kept(r) for arm, rs in runs.items() for r in rs},
    }


def final_runs(plan: Plan, store: Store, rates: dict[str, float]) -> Runs:
    """The arms that have all their seeds."""
    runs = {}
    for arm, rate in rates.items():
        records = [store.any(plan.run(arm, rate, seed)) for seed in plan.seeds]
        if all(records):
            runs[arm] = records
    return runs


def failures(plan: Plan, store: Store, rates: dict[str, float]) -> int:
    """Runs of this plan that failed, those that choose rates among them."""
    records = [store.any(run) for run in (*plan.tuning(), *plan.final(rates))]
    return sum("error" in record for record in records if record)


def kept(record: Record) -> dict[str, Any]:
    """Of a run, what is committed: all but the number of right samples of each problem."""
    if "error" in record:
        return {"error": record["error"].strip().splitlines()[-1]}
    curve = [{k: v for k, v in p.items() if k != "correct"} for p in record["curve"]]
    return {"curve": curve, "log": record["log"]}


def entry(arm: str, runs: Runs, rate: float, plan: Plan) -> dict[str, Any]:
    """An arm's means over seeds, and its paired differences to the reference."""
    records = runs[arm]
    ends = [final(r) for r in records]
    told: dict[str, Any] = {
        "learning_rate": rate,
        "failed": sum("error" in r for r in records),
    }
    if rate in (min(plan.rates), max(plan.rates)) and len(plan.rates) > 1:
        told["edge"] = "low" if rate == min(plan.rates) else "high"
    starts = [r["curve"][0]["accuracy"] for r in records if "curve" in r]
    told["start"] = starts[0] if starts else None
    told |= {name: mean([end.get(name) for end in ends]) for name in SHOWN}
    told["interquartile_accuracy"] = round(
        float(interquartile_mean([end["accuracy"] for end in ends])), 4
    )
    for name in ("generated_tokens", "seconds"):
        told[name] = mean([r.get(name) for r in records])
    if arm != REFERENCE and REFERENCE in runs:
        told |= compared(records, runs[REFERENCE])
    return told


def compared(ours: list[Record], theirs: list[Record]) -> dict[str, Any]:
    """Differences to the reference and the verdict (`learning/verdict.py`); None with one seed."""
    ratio = tokens_ratio([by_tokens(r) for r in ours], [by_tokens(r) for r in theirs])
    told: dict[str, Any] = {"tokens_to_reference": None if ratio is None else round(ratio, 4)}
    if len(ours) < 2:
        return told | {"accuracy_difference": None, "pass_at_k_difference": None, "verdict": None}
    differences = {
        name: paired_difference([final(r)[name] for r in ours], [final(r)[name] for r in theirs])
        for name in ("accuracy", "pass_at_k")
    }
    told |= {f"{name}_difference": rounded(d) for name, d in differences.items()}
    return told | {"verdict": verdict(*differences.values(), ratio)}


def by_tokens(record: Record) -> tuple[list[float], list[float]]:
    curve = record.get("curve", [])
    return [p["generated_tokens"] for p in curve], [p["accuracy"] for p in curve]


def csv_text(data: dict[str, Any]) -> str:
    """One line for each measurement of each run."""
    columns = ("step", "generated_tokens", "seconds", *SHOWN)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", "seed", "learning_rate", *columns])
    for name, run in data["runs"].items():
        arm, seed = name.rsplit(" | ", 1)
        rate = data["arms"][arm]["learning_rate"]
        for point in run.get("curve", []):
            writer.writerow([arm, seed, rate, *(point[column] for column in columns)])
    return file.getvalue()


def markdown(data: dict[str, Any]) -> str:
    """The table, with what it takes to read it; from the JSON alone."""
    size, seeds = data["size"], data["seeds"]["final"]
    tuned = len(data["rates"]) > 1
    rates = ", ".join(f"{rate:g}" for rate in data["rates"])
    starts = [e["start"] for e in data["arms"].values() if e["start"] is not None]
    head = (
        f"Task `{data['task']}`, {count(len(seeds), 'seed')} of each arm, "
        f"{count(size['steps'], 'step')} of {size['groups']} × {size['completions']} completions, "
        f"measured on {size['held_out']} held-out problems with {size['samples']} samples each. "
        + (
            f"Learning rates were chosen for each arm among {rates} with the seeds "
            f"{', '.join(map(str, data['seeds']['tuning']))}; ↓ and ↑ mark an edge. "
            if tuned
            else f"The learning rate is {rates} for all arms and **was not tuned**. "
        )
        + (
            f"The start is right in {number(starts[0], 3)} of its samples. "
            if starts
            else "**No run ended.** "
        )
        + (
            "Differences are paired by seed, with Student's 95 % interval. "
            if len(seeds) > 1
            else "**With one seed there is no interval, and no arm can be called better.** "
        )
        + "The last column is the rule's verdict."
    )
    columns = [
        *("method", "rate", "accuracy", f"pass@{size['samples']}", "accuracy − GRPO's"),
        *("tokens to GRPO's accuracy", "entropy", "tokens a completion", "format"),
        *("generated tokens", "seconds", "verdict"),
    ]
    rows = [row(arm, e) for arm, e in data["arms"].items()]
    return head + "\n\n" + table(columns, rows) + "\n"


def row(arm: str, e: dict[str, Any]) -> list[str]:
    mark = {"low": " ↓", "high": " ↑"}.get(e.get("edge"), "")
    difference, ratio = e.get("accuracy_difference"), e.get("tokens_to_reference")
    failed = f" ({e['failed']} failed)" if e.get("failed") else ""
    return [
        f"`{arm}`{failed}",
        f"{e['learning_rate']:g}{mark}",
        number(e["accuracy"], 3),
        number(e["pass_at_k"], 3),
        signed_interval(difference),
        "–" if ratio is None else f"× {number(ratio)}",
        *(
            optional(e[name], digits)
            for name, digits in (("entropy", 3), ("length", 1), ("format", 3))
        ),
        optional(e["generated_tokens"], 0),
        optional(e["seconds"], 0),
        e.get("verdict") or "–",
    ]
