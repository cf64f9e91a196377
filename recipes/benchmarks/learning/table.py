"""The Markdown of benchmarks/README.md, from `learning.json` alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from trl_lambda.atomic_write import replace_text

from .verdict import REFERENCE

MARK = "<!-- learning -->"


def markdown(data: dict[str, Any]) -> str:
    parts = [overall_table(data), *(task_table(data, task) for task in data["tasks"])]
    return "\n\n".join(parts) + "\n"


def measuring(data: dict[str, Any]) -> list[str]:
    """The tasks that measure what their names say; the others are in no mean."""
    return [task for task, told in data["tasks"].items() if not told["faults"]]


def overall_table(data: dict[str, Any]) -> str:
    """Who is level, better or neither on each task, and the scores over all tasks."""
    tasks, seeds = list(data["tasks"]), len(data["seeds"]["final"])
    head = (
        f"Verdicts on each task, by the rule of [`verdict.py`](learning/verdict.py), and final "
        f"accuracy over {count(len(measuring(data)), 'task')} and {count(seeds, 'seed')}: the "
        "interquartile "
        "mean leaves out the best and the worst quarter of the runs, the plain mean beside it does "
        "not. Brackets are 95 % intervals of a stratified bootstrap. The last column is the chance "
        f"that a run ends above a run of TRL's {REFERENCE}, averaged over tasks."
    )
    rows = [
        [
            method,
            *(shown_verdict(data, method, task) for task in tasks),
            *overall_cells(data["overall"].get(method)),
        ]
        for method in data["settings"]
    ]
    columns = ["method", *tasks, "interquartile mean", "mean", f"P(above {REFERENCE})"]
    return head + "\n\n" + table(columns, rows)


def shown_verdict(data: dict[str, Any], method: str, task: str) -> str:
    entry = data["results"].get(f"{method} | {task}")
    verdict = (entry or {}).get("verdict", "–")
    return f"**{verdict}**" if verdict == "better" else verdict


def overall_cells(entry: dict[str, Any] | None) -> list[str]:
    if entry is None:
        return ["–"] * 3
    return [interval(entry["final"]), number(entry["mean"], 3), interval(entry.get("improves"))]


def task_table(data: dict[str, Any], name: str) -> str:
    """What the runs of each method end with on a task, and what they took."""
    task = data["tasks"][name]
    head = (
        f"`{name}`, {task['decisive']}. Runs start at {optional(task.get('start'), 3)} and have "
        f"{count(task['generations'], 'step')} of {task['groups']} × {task['completions']} "
        f"completions. Differences to TRL's {REFERENCE} are paired by seed, with Student's 95 % "
        "interval. “Lowest” is the worst seed; a run that ends no better than it started, or "
        "fails, has collapsed. “Tokens to” are the generated tokens at which a method's mean "
        f"accuracy first is {REFERENCE}'s final one, as a share of what {REFERENCE} takes for it. "
        "Entropy, length, kept text, and failures that were decided where the task says, are of "
        f"the last five steps. The rate is {count(task['steps_below'], 'step')} of √2 below the "
        "best that was tried; ↕ where that best was at an edge of the grid."
        + "".join(f" **No mean has this task: {fault}.**" for fault in task["faults"])
    )
    columns = [
        *("method", "rate", "accuracy", f"− {REFERENCE}", "lowest", "collapsed", "pass@8"),
        *("tokens to", "entropy", "length", "kept text", "failures decided", "tokens", "CPU s"),
    ]
    entries = {m: data["results"].get(f"{m} | {name}") for m in data["settings"]}
    rows = [
        task_row(method, entry, failed_runs(data, method, name))
        for method, entry in entries.items()
        if entry
    ]
    return head + "\n\n" + table(columns, rows)


def failed_runs(data: dict[str, Any], method: str, task: str) -> int:
    """How many final runs failed: they have no curve, and count as never right."""
    curves = data["curves"][f"{method} | {task}"]
    return len(data["seeds"]["final"]) - len(curves["accuracy"])


def task_row(method: str, entry: dict[str, Any], failed: int) -> list[str]:
    ratio = entry.get("tokens_to_reference")
    return [
        method,
        shown_rate(entry["learning_rate"]) + " ↕" * entry["edge"],
        number(entry["final"], 3),
        signed_interval(entry.get("difference")),
        number(entry["lowest"], 3),
        str(entry["collapsed"]) + f" ({failed} failed)" * bool(failed),
        number(entry["pass_at_k"], 3),
        "–" if ratio is None else f"× {number(ratio)}",
        *(optional(entry[name], 3) for name in ("entropy",)),
        *(optional(entry[name], 1) for name in ("length",)),
        *(optional(entry[name], 2) for name in ("format", "decided")),
        thousands(entry["generated_tokens"]),
        optional(entry["seconds"], 1),
    ]


def shown_rate(rate: float) -> str:
    return f"{rate:.1e}".replace(".0e", "e").replace("e-0", "e-")


def thousands(tokens: float | None) -> str:
    return "–" if tokens is None else f"{tokens / 1000:.0f}k"


def optional(value: float | None, digits: int) -> str:
    return "–" if value is None else number(value, digits)


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def count(number: int, noun: str, several: str | None = None) -> str:
    return f"{number} {noun if number == 1 else several or noun + 's'}"


def number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value, 3)


def interval(estimate: list[float] | None, shown: Callable[[float], str] | None = None) -> str:
    if estimate is None:
        return "–"
    value, low, high = map(shown or partial(number, digits=3), estimate)
    return f"{value} [{low}, {high}]"


def signed_interval(estimate: list[float] | None) -> str:
    return interval(estimate, signed)


def insert(readme: Path, text: str, *, mark: str = MARK) -> bool:
    """Puts the text between the two marks of the file; False, with nothing changed, if it has none.

    Raises:
        SystemExit: one mark, or more than two.
    """
    parts = readme.read_text(encoding="utf-8").split(mark) if readme.exists() else [""]
    if len(parts) == 1:
        print(f"{readme} has no two lines {mark}: no table was written into it.")
        return False
    if len(parts) != 3:
        raise SystemExit(f"{readme} has {len(parts) - 1} times {mark}; it needs two, or none.")
    replace_text(readme, f"{parts[0]}{mark}\n\n{text}\n{mark}{parts[2]}")
    return True


def between_marks(readme: Path, *, mark: str = MARK) -> str:
    """What `insert` has put there."""
    return readme.read_text(encoding="utf-8").split(mark)[1].strip() + "\n"
