"""The picture: accuracy along training, a panel for each task."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from .estimators import student_half_width

# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = (
    "#000000", "#E69F00", "#56B4E9", "#D55E00", "#009E73", "#0072B2", "#CC79A7", "#F0E442",
)  # fmt: skip

LINES = ("-", "--")


def plot(data: dict[str, Any], path: Path) -> Path:
    tasks = list(data["tasks"])
    methods = list(dict.fromkeys(name.split(" | ")[0] for name in data["curves"]))
    columns = min(3, len(tasks) + 1)
    rows = math.ceil((len(tasks) + 1) / columns)
    figure, panels = pyplot.subplots(
        rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False, layout="constrained"
    )
    for panel, task in zip(panels.flat, tasks, strict=False):
        panel.set_title(f"{task}: {data['tasks'][task]['decisive']}", fontsize=9)
        panel.set_xlabel("optimiser steps", fontsize=8)
        panel.tick_params(labelsize=8)
        for method, (line, colour) in zip(methods, itertools.product(LINES, COLOURS), strict=False):
            if curves := data["curves"].get(f"{method} | {task}"):
                draw(panel, curves, method, colour, line)
    for panel in panels.flat[len(tasks) :]:
        panel.axis("off")
    handles = {}
    for panel in panels.flat[: len(tasks)]:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    panels.flat[len(tasks)].legend(handles.values(), handles.keys(), loc="center", fontsize=8)
    seeds = len(data["seeds"]["final"])
    figure.suptitle(f"Held-out accuracy, mean of {seeds} seeds with 95 % intervals", fontsize=10)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


def draw(panel, curves: dict[str, Any], method: str, colour: str, line: str) -> None:
    """Mean over seeds, with Student's interval where there are several."""
    whole = [row for row in curves["accuracy"] if len(row) == len(curves["steps"])]
    values = np.array(whole)
    mean = values.mean(0)
    panel.plot(curves["steps"], mean, color=colour, linestyle=line, label=method, linewidth=1.5)
    if len(values) > 1:
        half = student_half_width(values)
        panel.fill_between(curves["steps"], mean - half, mean + half, color=colour, alpha=0.15)
