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
from benchmarks.learning.table import (  # noqa: E402
    between_marks,
    insert,
    measuring,
    number,
    optional,
    shown_verdict,
)

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
        tokens = optional(share_of_tokens(data, name), 2)
        lines.append(f"| {shown} | {' | '.join(cells)} | {tokens} |")
    if len(measuring(data)) < len(tasks):
        lines += ["", "¹ GRPO's own runs show another task than the name says, so no mean has it."]
    return "\n".join(lines)


def cell(data: dict[str, Any], method: str, task: str) -> str:
    text = number(data["results"][f"{method} | {task}"]["final"])
    verdict = shown_verdict(data, method, task)
    return text if verdict == "–" else f"{text} {verdict}"


def share_of_tokens(data: dict[str, Any], method: str) -> float | None:
    """Tokens that a method's runs generate, as a share of GRPO's; the mean over tasks.

    None where all runs of one of the two failed on a task, or no task measures what it says.
    """
    ours, theirs = (
        [data["results"][f"{name} | {task}"]["generated_tokens"] for task in measuring(data)]
        for name in (method, "GRPO")
    )
    if not ours or None in ours or None in theirs:
        return None
    return float(np.mean([a / b for a, b in zip(ours, theirs, strict=True)]))


def figure(data: dict[str, Any], path: Path) -> None:
    """Mean accuracy over tasks and seeds, against the share of the tokens that GRPO generates."""
    made = matplotlib.figure.Figure(figsize=(7, 3.4), layout="constrained")
    panel = made.subplots()
    share = np.linspace(0, 1, 101)
    for name, (shown, style) in ROWS.items():
        if style is None:
            continue
        line, colour = style
        curves = [along(data, name, task, share) for task in measuring(data)]
        mean = np.mean(curves, axis=0) if curves else np.full_like(share, np.nan)
        label = shown.replace("`", "")
        panel.plot(100 * share, mean, line, color=colour, label=label, linewidth=2)
    panel.set_xlabel("generated tokens (% of those that GRPO takes)")
    panel.set_ylabel(f"held-out accuracy, mean of {', '.join(measuring(data))}", fontsize=9)
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    made.savefig(path, dpi=120, facecolor="white")


def along(data: dict[str, Any], method: str, task: str, share: np.ndarray) -> np.ndarray:
    """Mean accuracy over seeds at these shares of GRPO's tokens; NaN where the runs have ended.

    NaN everywhere where all runs of one of the two failed.
    """
    curves, theirs = (data["curves"][f"{name} | {task}"] for name in (method, "GRPO"))
    if not curves["tokens"] or not theirs["tokens"]:
        return np.full_like(share, np.nan)
    tokens = np.array(curves["tokens"]) / theirs["tokens"][-1]
    return np.interp(share, tokens, np.mean(curves["accuracy"], axis=0), right=np.nan)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=BENCHMARKS / "results")
    parser.add_argument("--readme", type=Path, default=BENCHMARKS.parents[1] / "README.md")
    options = parser.parse_args()
    path = options.results / "learning.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["missing"]:
        raise SystemExit(
            f"{path} is not whole: not done yet are {', '.join(data['missing'])}. Finish "
            "recipes/benchmarks/learning first."
        )
    figure(data, options.results / "learning_front.png")
    if not insert(options.readme, table(data), mark=MARK):
        raise SystemExit(f"{options.readme} has no two lines {MARK}.")
    print(between_marks(options.readme, mark=MARK))


if __name__ == "__main__":
    main()
