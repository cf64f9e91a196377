"""The picture: accuracy along training, against steps and against generated tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from .estimators import student_half_width
from .table import count, failed_runs

# What is drawn, where it was run: line and colour (Okabe and Ito's, which the colour-blind tell
# apart). All others are in the JSON.
LINES = {
    "GRPO": ("-", "#000000"),
    "Dr. GRPO": (":", "#000000"),
    "GRPO-λ": ("-", "#D55E00"),
    "GRPO-λ normalised": ("--", "#D55E00"),
    "λ-GRPO": ("-", "#CC79A7"),
    "branch": ("-", "#0072B2"),
    "branch, chosen forks": ("--", "#0072B2"),
    "probe λ 0.8": ("-", "#009E73"),
    "probe + branch": ("--", "#009E73"),
}


def plot(data: dict[str, Any], path: Path) -> Path:
    """A row against steps, a row against tokens; a column for each task."""
    tasks = list(data["tasks"])
    figure, panels = pyplot.subplots(
        2, len(tasks), figsize=(3.6 * len(tasks), 6.4), squeeze=False, layout="constrained"
    )
    for row, axis in zip(panels, ("steps", "tokens"), strict=True):
        for panel, task in zip(row, tasks, strict=True):
            draw(panel, data, task, axis)
    seeds = len(data["seeds"]["final"])
    title = f"Held-out accuracy, mean of {seeds} seeds with 95 % intervals"
    return save(figure, panels, title, path)


def save(figure, panels, title: str, path: Path) -> Path:
    """Writes the picture with one legend for all panels, which says each label once."""
    handles = {}
    for panel in panels.flat:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


def draw(panel, data: dict[str, Any], task: str, axis: str) -> None:
    """Means over the seeds that did not fail, with Student's interval where there are several."""
    title = f"{task}: {data['tasks'][task]['decisive']}\n{failures(data, task, LINES)}"
    panel.set_title(title.strip(), fontsize=9)
    panel.set_xlabel("optimiser steps" if axis == "steps" else "generated tokens", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.set_ylim(0, 1)
    panel.grid(alpha=0.3)
    for method, (line, colour) in LINES.items():
        curves = data["curves"].get(f"{method} | {task}")
        if curves is None or not curves["accuracy"]:
            continue
        draw_mean(panel, curves[axis], np.array(curves["accuracy"]), method, line, colour)


def failures(data: dict[str, Any], task: str, methods: Iterable[str]) -> str:
    """How many runs of which methods failed on a task, and are not in their lines; or nothing."""
    ran = [m for m in methods if f"{m} | {task}" in data["curves"]]
    failed = {m: n for m in ran if (n := failed_runs(data, m, task))}
    if not failed:
        return ""
    seeds = len(data["seeds"]["final"])
    told = ", ".join(f"{method} {n} of {seeds}" for method, n in failed.items())
    return f"{count(sum(failed.values()), 'run')} failed: {told}"


def draw_mean(panel, at: Sequence[float], values_SP, label: str, line: str, colour: str) -> None:
    """The mean of S runs at P places, with Student's 95 % interval where there are several."""
    mean_P = values_SP.mean(0)
    panel.plot(at, mean_P, color=colour, linestyle=line, label=label, linewidth=1.5)
    if len(values_SP) > 1:
        half_P = student_half_width(values_SP)
        panel.fill_between(at, mean_P - half_P, mean_P + half_P, color=colour, alpha=0.12)
