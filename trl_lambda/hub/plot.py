"""The reward over the steps of a run, as a picture for the model card."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..atomic_write import replace_file

PLOT_FILE = "training_reward.png"


def write_reward_plot(log_history: list[dict[str, Any]], folder: Path) -> str | None:
    """Writes `training_reward.png`, and says why not where it does not.

    Args:
        log_history: the trainer's: `reward` and `reward_std` are means over the completions of a
            log, `eval_reward` those of an evaluation.

    Returns:
        None where the picture was written, else the reason for a reader of the card.
    """
    rewards = _series(log_history, "reward")
    if not rewards:
        return "no reward was logged yet"
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "matplotlib was not installed where this was trained"
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    steps, means = zip(*rewards, strict=True)
    marker = "o" if len(steps) < 30 else None
    axes.plot(steps, means, color="#0072B2", marker=marker, markersize=3, label="training")
    spread = dict(_series(log_history, "reward_std"))
    if all(step in spread for step in steps):
        low = [mean - spread[step] for step, mean in rewards]
        high = [mean + spread[step] for step, mean in rewards]
        axes.fill_between(steps, low, high, color="#0072B2", alpha=0.15, lw=0, label="± reward_std")
    evaluated = _series(log_history, "eval_reward")
    if evaluated:
        axes.plot(*zip(*evaluated, strict=True), "s--", color="#D55E00", label="evaluation")
    axes.set(xlabel="optimiser step", ylabel="mean reward of a completion")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    replace_file(  # a push in the background may be reading it
        folder / PLOT_FILE,
        lambda unfinished: figure.savefig(unfinished, dpi=120, facecolor="white", format="png"),
    )
    return None


def _series(log_history: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """(step, value) of finite values, one a step, the last that was logged."""
    found = {}
    for entry in log_history:
        value = entry.get(name)
        if isinstance(value, int | float) and math.isfinite(value) and "step" in entry:
            found[int(entry["step"])] = float(value)
    return sorted(found.items())
