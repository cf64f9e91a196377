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
from benchmarks.learning.table import between_marks, insert, number, shown_verdict  # noqa: E402

MARK = "<!-- front -->"
# Name in the results: (name on the front page, line and colour in the figure, or None).
ROWS: dict[str, tuple[str, tuple[str, str] | None]] = {
    "GRPO": ("TRL, GRPO", ("-", "#000000")),
    "Dr. GRPO": ("TRL, Dr. GRPO", None),
    "branch": ("`branch`", ("-", "#0072B2")),
    "GRPO-λ": ("`grpo_lambda`", ("--", "#D55E00")),
    "λ-GRPO": ("`lambda_grpo`", (":", "#CC79A7")),
}


def table(data: dict[str, Any]) -> str:
    """Five rows: what the runs end with on each task, the verdict there, and tokens."""
    tasks = list(data["tasks"])
    names = [f"`{task}`" if task in measuring(data) else f"`{task}` ¹" for task in tasks]
    lines = [
        f"| method | {' | '.join(names)} | generated tokens |",
        "|---" * (len(tasks) + 2) + "|",
    ]
    for name, (shown, _) in ROWS.items():
        cells = [cell(data, name, task) for task in tasks]
        lines.append(f"| {shown} | {' | '.join(cells)} | {number(share_of_tokens(data, name))} |")
    if len(measuring(data)) < len(tasks):
        lines += ["", "¹ GRPO's own runs show another task than the name says, so no mean has it."]
    return "\n".join(lines)


def cell(data: dict[str, Any], method: str, task: str) -> str:
    text = number(data["results"][f"{method} | {task}"]["final"])
    verdict = shown_verdict(data, method, task)
    return text if verdict == "–" else f"{text} {verdict}"


def measuring(data: dict[str, Any]) -> list[str]:
    """The tasks that measure what their names say; the others are in no mean."""
    return [task for task, told in data["tasks"].items() if not told["faults"]]


def share_of_tokens(data: dict[str, Any], method: str) -> float:
    """Tokens that a method's runs generate, as a share of GRPO's; the mean over tasks."""
    results = data["results"]
    shares = [
        results[f"{method} | {task}"]["generated_tokens"]
        / results[f"GRPO | {task}"]["generated_tokens"]
        for task in measuring(data)
    ]
    return float(np.mean(shares))


def figure(data: dict[str, Any], path: Path) -> None:
    """Mean accuracy over tasks and seeds, against the share of the tokens that GRPO generates."""
    made = matplotlib.figure.Figure(figsize=(7, 3.4), layout="constrained")
    panel = made.subplots()
    share = np.linspace(0, 1, 101)
    for name, (shown, style) in ROWS.items():
        if style is None:
            continue
        line, colour = style
        mean = np.mean([along(data, name, task, share) for task in measuring(data)], axis=0)
        label = shown.replace("`", "")
        panel.plot(100 * share, mean, line, color=colour, label=label, linewidth=2)
    panel.set_xlabel("generated tokens (% of those that GRPO takes)")
    panel.set_ylabel(f"held-out accuracy, mean of {', '.join(measuring(data))}", fontsize=9)
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    made.savefig(path, dpi=120, facecolor="white")


def along(data: dict[str, Any], method: str, task: str, share: np.ndarray) -> np.ndarray:
    """Mean accuracy over seeds at these shares of GRPO's tokens; NaN where the runs have ended."""
    curves = data["curves"][f"{method} | {task}"]
    tokens = np.array(curves["tokens"]) / data["curves"][f"GRPO | {task}"]["tokens"][-1]
    return np.interp(share, tokens, np.mean(curves["accuracy"], axis=0), right=np.nan)


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
