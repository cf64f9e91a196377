"""The picture: accuracy along training, against steps and against generated tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from .estimators import student_half_width

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
    handles = {}
    for panel in panels.flat:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8)
    seeds = len(data["seeds"]["final"])
    figure.suptitle(f"Held-out accuracy, mean of {seeds} seeds with 95 % intervals", fontsize=10)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


def draw(panel, data: dict[str, Any], task: str, axis: str) -> None:
    """Means over seeds, with Student's interval where there are several."""
    panel.set_title(f"{task}: {data['tasks'][task]['decisive']}", fontsize=9)
    panel.set_xlabel("optimiser steps" if axis == "steps" else "generated tokens", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.set_ylim(0, 1)
    panel.grid(alpha=0.3)
    for method, (line, colour) in LINES.items():
        curves = data["curves"].get(f"{method} | {task}")
        if curves is None:
            continue
        values = np.array(curves["accuracy"])
        mean, at = values.mean(0), curves[axis]
        panel.plot(at, mean, color=colour, linestyle=line, label=method, linewidth=1.5)
        if len(values) > 1:
            half = student_half_width(values)
            panel.fill_between(at, mean - half, mean + half, color=colour, alpha=0.12)
