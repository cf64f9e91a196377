"""Writes the front page's table and figure of the learning benchmark, from its committed results.

    python recipes/benchmarks/front_page.py

Nothing is trained: `learning.json` has the numbers. The table goes between the `<!-- front -->`
lines of the repository's README, the figure to recipes/benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np

BENCHMARKS = Path(__file__).resolve().parent
if __name__ == "__main__":  # the folder `recipes` takes the place of this one
    sys.path[0] = str(BENCHMARKS.parent)
from benchmarks.learning.table import between_marks, insert  # noqa: E402

MARK = "<!-- front -->"
# Name in the results: (name on the front page, line and colour in the figure, or None).
ROWS: dict[str, tuple[str, tuple[str, str] | None]] = {
    "GRPO + recent 0.99 + floor": ("GRPO, trace `recent` and a floor", ("-", "#0072B2")),
    "GRPO-λ both ratio 0.99 paper, floor": ("`grpo_lambda`", ("--", "#D55E00")),
    "GRPO": ("TRL, GRPO's loss", (":", "#000000")),
    "DAPO": ("TRL, its defaults", ("-.", "#009E73")),
    "Dr. GRPO": ("TRL, Dr. GRPO", None),
}


def measuring(data: dict[str, Any]) -> list[str]:
    """The tasks that measure what their name says."""
    return [task for task in data["tasks"] if task not in data["retired"]]


def table(data: dict[str, Any]) -> str:
    """Five rows: what the runs end with over all tasks, and on the tasks at either end."""
    tasks = measuring(data)
    lines = [
        f"| method | final accuracy over {len(tasks)} tasks [95 %] | worst task | best task |",
        "|---|---|---|---|",
    ]
    for name, (shown, _) in ROWS.items():
        middle, low, high = data["overall"][name]["final"]
        finals = {task: data["by_task"][task][name]["final"] for task in tasks}
        worst, best = min(finals, key=finals.__getitem__), max(finals, key=finals.__getitem__)
        lines.append(
            f"| {shown} | {middle:.2f} [{low:.2f}, {high:.2f}] | {worst} {finals[worst]:.2f} | "
            f"{best} {finals[best]:.2f} |"
        )
    return "\n".join(lines)


def figure(data: dict[str, Any], path: Path) -> None:
    """Mean accuracy over tasks and seeds along training, each task's own number of steps."""
    made = matplotlib.figure.Figure(figsize=(7, 3.4), layout="constrained")
    panel = made.subplots()
    for name, (shown, style) in ROWS.items():
        if style is None:
            continue
        curves = [data["curves"][f"{name} | {task}"]["accuracy"] for task in measuring(data)]
        mean = np.mean([np.mean(rows, axis=0) for rows in curves], axis=0)
        share = np.linspace(0, 100, len(mean))
        line, colour = style
        panel.plot(share, mean, line, color=colour, label=shown.replace("`", ""), linewidth=2)
    panel.set_xlabel("share of the training's steps (%)")
    panel.set_ylabel(f"held-out accuracy, mean of {len(measuring(data))} tasks")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    made.savefig(path, dpi=120, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=BENCHMARKS / "results")
    parser.add_argument("--readme", type=Path, default=BENCHMARKS.parents[1] / "README.md")
    options = parser.parse_args()
    data = json.loads((options.results / "learning.json").read_text(encoding="utf-8"))
    figure(data, options.results / "learning_front.png")
    if not insert(options.readme, table(data), mark=MARK):
        raise SystemExit(f"{options.readme} has no two lines {MARK}.")
    print(between_marks(options.readme, mark=MARK))


if __name__ == "__main__":
    main()
