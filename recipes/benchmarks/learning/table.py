"""The Markdown of benchmarks/README.md, from `learning.json` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl_lambda.atomic_write import replace_text

from .methods import REFERENCE

MARK = "<!-- learning -->"
SHOWN_OF_STAGE_1 = 12


def markdown(data: dict[str, Any]) -> str:
    parts = [overall_table(data), differences_table(data), speed_table(data), screening_table(data)]
    return "\n\n".join(parts) + "\n"


def overall_table(data: dict[str, Any]) -> str:
    overall = dict(data["overall"])
    best = overall.pop("best_baseline")
    seeds = len(data["seeds"]["final"])
    tasks = len(data["tasks"]) - len(data["retired"])
    head = (
        f"Scores over {count(seeds, 'seed')} of {count(tasks, 'task')}. Final accuracy is the mean "
        f"of a run's last {data['final_points']} of 11 measurements. The interquartile mean leaves "
        "out the best and the worst quarter of the runs, and with them even a task that a method "
        "never learns: that is why the plain mean stands beside it. Brackets are 95 % intervals of "
        "a stratified bootstrap. The last column is the chance that a run beats a run of "
        f"{best}, the best baseline, averaged over tasks."
    )
    rows = [
        [
            m,
            number(e["mean"], 3),
            interval(e["final"]),
            interval(e["area"]),
            interval(e.get("improves_area")),
        ]
        for m, e in sorted(overall.items(), key=lambda item: -item[1]["area"][0])
    ]
    columns = [
        "method",
        "final accuracy, mean",
        "final accuracy, interquartile",
        "area under the curve, interquartile",
        f"P(area > {best}'s)",
    ]
    return head + "\n\n" + table(columns, rows)


def differences_table(data: dict[str, Any]) -> str:
    head = (
        f"Final accuracy on each task: for {REFERENCE} the accuracy itself, for the others the "
        f"paired difference to {REFERENCE} with its 95 % interval. It is **bold** where the lower "
        f"bound is ≥ {number(data['margin'])}, the margin of non-inferiority that was fixed before "
        "any result was looked at. Intervals are over seeds, at the chosen learning rate, from one "
        "warm start; rates were chosen with other seeds on the "
        f"same problems.{not_learnt(data)}{retired(data)}"
    )

    def cell(result: dict[str, Any] | None) -> str:
        if result is None:
            return "–"
        if "difference" not in result:
            return f"{number(result['final'], 3)} (start {number(result['start'], 3)})"
        value, low, high = result["difference"]
        text = f"{signed(value)} [{signed(low)}, {signed(high)}]"
        return f"**{text}**" if result["non_inferior"] else text

    return head + "\n\n" + task_table(data, cell)


def retired(data: dict[str, Any]) -> str:
    """A sentence for each task that does not measure what its name says."""
    return "".join(
        f" **{task} is retired**: {reason}. No mean and no claim has it."
        for task, reason in data["retired"].items()
    )


def not_learnt(data: dict[str, Any]) -> str:
    """A sentence that names the tasks that the reference itself does not learn, if any."""
    references = {t: of_task.get(REFERENCE) for t, of_task in data["by_task"].items()}
    tasks = [t for t, r in references.items() if r and r["final"] <= r["start"]]
    if not tasks:
        return ""
    return (
        f" On {' and '.join(tasks)} {REFERENCE} ends no better than it starts, so bold says "
        "nothing there."
    )


def speed_table(data: dict[str, Any]) -> str:
    head = (
        "Optimiser steps, and thousands of completion tokens, until the median run first reaches "
        "the mean final accuracy of the best of TRL's own methods on that task; – where half of "
        "the runs or more never do. The learning rate that was chosen follows; ↓ marks the "
        "smallest that was tried, ↑ the largest."
    )

    def cell(result: dict[str, Any] | None) -> str:
        if result is None:
            return "–"
        rate = f"at {result['learning_rate']:.1e}".replace(".0e", "e").replace("e-0", "e-")
        rate += {"low": " ↓", "high": " ↑"}.get(result.get("edge"), "")
        if result.get("steps") is None:
            return f"– {rate}"
        return f"{result['steps']} ({result['tokens'] / 1000:.0f}k) {rate}"

    return head + "\n\n" + task_table(data, cell)


def screening_table(data: dict[str, Any]) -> str:
    """The best of stage 1, and where the rest stands."""
    seeds = len(data["seeds"]["screening"])
    ranked = [(m, e) for m, e in data["screening"].items() if e["all_tasks"]]
    tasks = list(ranked[0][1]["areas"]) if ranked else []
    head = (
        f"Stage 1, {count(len(data['screening']), 'method')} with {count(seeds, 'seed')} each: "
        "area under the curve at the best of its learning rates. These are the first "
        f"{min(SHOWN_OF_STAGE_1, len(ranked))}; "
        "all are in [`learning.json`](results/learning.json)."
    )
    rows = [
        [m, number(e["score"], 3), *(number(max(e["areas"][t].values()), 3) for t in tasks)]
        for m, e in ranked[:SHOWN_OF_STAGE_1]
    ]
    return head + "\n\n" + table(["method", "mean", *tasks], rows)


def task_table(data: dict[str, Any], cell) -> str:
    results = data["by_task"]
    methods = list(dict.fromkeys(m for of_task in results.values() for m in of_task))
    rows = [[m, *(cell(results[t].get(m)) for t in results)] for m in methods]
    return table(["method", *results], rows)


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def count(number: int, noun: str, several: str | None = None) -> str:
    return f"{number} {noun if number == 1 else several or noun + 's'}"


def number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value, 3)


def interval(estimate: list[float] | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = estimate
    return f"{number(value, 3)} [{number(low, 3)}, {number(high, 3)}]"


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
