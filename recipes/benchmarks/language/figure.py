"""The picture: accuracy and pass@k along training, against steps and against generated tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot

from ..learning.figure import draw_mean, save
from ..learning.table import count

# Okabe and Ito's, which the colour-blind tell apart; the reference comes first and is black.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", ":", "-.")


def plot(data: dict[str, Any], path: Path) -> Path:
    """A row for accuracy, a row for pass@k; a column against steps, a column against tokens."""
    figure, panels = pyplot.subplots(2, 2, figsize=(8, 6.4), layout="constrained")
    names = {"accuracy": "accuracy", "pass_at_k": f"pass@{data['size']['samples']}"}
    axes = {"step": "optimiser steps", "generated_tokens": "generated tokens"}
    for row, (metric, shown) in zip(panels, names.items(), strict=True):
        for panel, (axis, at) in zip(row, axes.items(), strict=True):
            panel.set_ylabel(shown, fontsize=8)
            panel.set_xlabel(at, fontsize=8)
            panel.tick_params(labelsize=8)
            panel.grid(alpha=0.3)
            draw(panel, data, metric, axis)
            panel.set_ylim(bottom=0)
    seeds = count(len(data["seeds"]["final"]), "seed")
    told = f"{data['size']['held_out']} held-out problems, mean of {seeds} with 95 % intervals"
    return save(figure, panels, f"Task {data['task']}: {told}", path)


def draw(panel, data: dict[str, Any], metric: str, axis: str) -> None:
    """Each arm's mean over its runs; how many failed, and have no curve, is in its label."""
    for i, arm in enumerate(data["arms"]):
        runs = [run for name, run in data["runs"].items() if name.rsplit(" | ", 1)[0] == arm]
        ran = [run["curve"] for run in runs if "curve" in run]
        failed = len(runs) - len(ran)
        label = f"{arm} ({failed} failed)" if failed else arm
        line, colour = LINES[i // len(COLOURS) % len(LINES)], COLOURS[i % len(COLOURS)]
        if not ran:
            panel.plot([], [], line, color=colour, label=label)
            continue
        at = np.mean([[point[axis] for point in curve] for curve in ran], axis=0)
        values = np.array([[point[metric] for point in curve] for curve in ran])
        draw_mean(panel, at, values, label, line, colour)
