"""The quickstart's picture: held-out accuracy of two runs, by steps and by generated tokens."""

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
        generated: completion tokens that the run had generated at each of these.
        problems: how many held-out problems, for the intervals.
    """

    name: str
    rewards: list[float]
    accuracy: list[tuple[int, float]]
    generated: list[int]
    problems: int


def plot_curves(curves: list[Curve], path: Path, *, title: str, subtitle: str) -> None:
    """Accuracy with 95 % intervals: by steps, over the training reward, and by generated tokens."""
    figure, (by_steps, by_tokens) = plt.subplots(
        1, 2, figsize=(10, 4.8), sharey=True, layout="constrained"
    )
    for curve, (colour, marker) in zip(curves, STYLES, strict=True):
        steps = range(1, len(curve.rewards) + 1)
        by_steps.plot(steps, curve.rewards, color=colour, alpha=0.25, linewidth=1)
        _plot_accuracy(by_steps, [step for step, _ in curve.accuracy], curve, colour, marker)
        thousands = [tokens / 1000 for tokens in curve.generated]
        _plot_accuracy(by_tokens, thousands, curve, colour, marker)
    by_steps.plot([], [], color=INK, alpha=0.35, linewidth=1, label="mean reward of a step")
    by_steps.set_xlabel("step")
    by_steps.set_ylabel("share of right answers, sampled")
    by_steps.set_ylim(0, 1.02)
    by_steps.legend(loc="lower right", frameon=False)
    by_tokens.set_xlabel("thousands of tokens generated in training")
    for axes in (by_steps, by_tokens):
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    by_steps.set_title(subtitle, loc="left", fontsize=9, color=INK)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _plot_accuracy(axes, places: list[float], curve: Curve, colour: str, marker: str) -> None:
    accuracy = [value for _, value in curve.accuracy]
    intervals = [accuracy_interval(value, curve.problems) for value in accuracy]
    axes.errorbar(
        places,
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
