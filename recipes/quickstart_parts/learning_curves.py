"""The quickstart's picture: reward and held-out accuracy of two runs from the same start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen needed
import matplotlib.pyplot as plt

from trl_lambda.evaluation.intervals import Interval, mean_interval

# Okabe-Ito: told apart by colour-blind readers; the markers tell the runs apart in grey too.
STYLES = (("#D55E00", "o"), ("#0072B2", "s"))
INK = "#333333"


@dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        name: for the legend.
        rewards: mean reward of each step's completions, from step 1.
        accuracy: (step, held-out accuracy), step 0 being the start.
        problems: how many held-out problems, for the intervals.
    """

    name: str
    rewards: list[float]
    accuracy: list[tuple[int, float]]
    problems: int


def plot_curves(curves: list[Curve], path: Path, *, title: str, subtitle: str) -> None:
    """Accuracy as points with 95 % intervals over the training reward as faint lines."""
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for curve, (colour, marker) in zip(curves, STYLES, strict=True):
        steps = range(1, len(curve.rewards) + 1)
        axes.plot(steps, curve.rewards, color=colour, alpha=0.25, linewidth=1)
        _plot_accuracy(axes, curve, colour, marker)
    axes.plot([], [], color=INK, alpha=0.35, linewidth=1, label="mean training reward of a step")
    axes.set_xlabel("GRPO step")
    axes.set_ylabel("share of right answers, sampled")
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    axes.set_title(subtitle, loc="left", fontsize=9, color=INK)
    axes.annotate(
        title,
        (0, 1),
        xytext=(0, 36),  # above the two lines of the subtitle
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=12,
        fontweight="bold",
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _plot_accuracy(axes, curve: Curve, colour: str, marker: str) -> None:
    steps, accuracy = zip(*curve.accuracy, strict=True)
    intervals = [accuracy_interval(value, curve.problems) for value in accuracy]
    axes.errorbar(
        steps,
        accuracy,
        yerr=[
            [value - low for value, (low, _) in zip(accuracy, intervals, strict=True)],
            [high - value for value, (_, high) in zip(accuracy, intervals, strict=True)],
        ],
        color=colour,
        marker=marker,
        markersize=5,
        capsize=2,
        linewidth=2,
        label=f"{curve.name}: held-out {accuracy[0]:.2f} → {accuracy[-1]:.2f}",
    )


def accuracy_interval(accuracy: float, problems: int) -> Interval:
    """95 % interval of a share of `problems` that were answered right, once each."""
    right = round(accuracy * problems)
    return mean_interval([1.0] * right + [0.0] * (problems - right), trials=1)
