"""Results of the quickstart: the settings it changed, what came out, and where it ran."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from rich.table import Table

from trl_lambda.atomic_write import replace_json
from trl_lambda.versions import installed_versions

from .blanks import BLANKS, SOLUTION_TOKENS
from .learning_curves import Curve, accuracy_interval, plot_curves
from .settings import LABEL_NOISE, Budget, Change


@dataclass(frozen=True)
class Run:
    """A finished GRPO run."""

    curve: Curve
    learning_rate: float
    seconds: float


def print_settings(console: Console, changes: list[Change], grpo_rate: float) -> None:
    table = Table(title="What differs from LambdaGRPOConfig's defaults", title_justify="left")
    for column in ("setting", "default", "here", "why"):
        table.add_column(column, overflow="fold")
    for name, default, value, why in changes:
        table.add_row(name, str(default), str(getattr(value, "value", value)), why)
    console.print(table)
    console.print(
        "TRL's GRPOTrainer gets the same, but for what is LambdaGRPOConfig's own and its learning "
        f"rate, {grpo_rate:g}; all else is each trainer's own default.\n"
    )


def summarize(
    grpo: Run, ours: Run, changes: list[Change], budget: Budget, **more: Any
) -> dict[str, Any]:
    """The content of summary.json; `more` is what only the caller knows."""
    return {
        "accuracy_before": ours.curve.accuracy[0][1],
        "accuracy_after": ours.curve.accuracy[-1][1],
        "accuracy_after_grpo": grpo.curve.accuracy[-1][1],
        "generated_tokens": ours.curve.generated[-1],
        "generated_tokens_grpo": grpo.curve.generated[-1],
        "seconds_grpo": grpo.seconds,
        "seconds_ours": ours.seconds,
        "label_noise": LABEL_NOISE,
        "learning_rate": ours.learning_rate,
        "learning_rate_grpo": grpo.learning_rate,
        "budget": asdict(budget),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processes": PartialState().num_processes,
        "threads": torch.get_num_threads(),
        "versions": installed_versions(),
        "differs_from_defaults": {name: value for name, _, value, _ in changes},
        **more,
    }


def write_results(folder: Path, summary: dict[str, Any], curves: list[Curve]) -> None:
    """Writes summary.json, curves.json and learning.png."""
    replace_json(folder / "summary.json", summary)
    replace_json(folder / "curves.json", [asdict(curve) for curve in curves])
    plot_curves(
        curves,
        folder / "learning.png",
        title=f"{BLANKS} blanks among {SOLUTION_TOKENS} tokens, after a warm start",
        subtitle=(
            f"Both trainers from the same start, with seed {summary['seed']}.\n"
            f"Points: {curves[0].problems} held-out problems, one sample each, with 95 % intervals."
        ),
    )


def print_results(
    console: Console, summary: dict[str, Any], folder: Path, credit_report: Path
) -> None:
    problems = summary["budget"]["held_out"]
    table = Table(title=f"Sampled accuracy on {problems} held-out problems", title_justify="left")
    for column in ("model", "accuracy [95 % interval]", "tokens generated", "saved in"):
        table.add_column(column, overflow="fold")
    for name, key, tokens, place in (
        ("warm start", "accuracy_before", None, "warm_start"),
        ("TRL's GRPOTrainer", "accuracy_after_grpo", "generated_tokens_grpo", "grpo"),
        ("LambdaGRPOTrainer", "accuracy_after", "generated_tokens", "model"),
    ):
        low, high = accuracy_interval(summary[key], problems)
        # The bracket is escaped: rich would take it for markup.
        accuracy = rf"{summary[key]:.3f} \[{low:.3f}, {high:.3f}]"
        generated = f"{summary[tokens]:,}" if tokens else "–"
        table.add_row(name, accuracy, generated, str(folder / place))
    console.print(table)
    console.print(_comment(summary))
    console.print(f"picture  {folder / 'learning.png'}", soft_wrap=True)
    console.print(f"credit   {credit_report} (open it in a browser)", soft_wrap=True)
    console.print(f"numbers  {folder / 'summary.json'}", soft_wrap=True)
    console.print(f"{summary['seconds']:.0f} seconds in all")


def _comment(summary: dict[str, Any]) -> str:
    if summary["smoke"]:
        return "--smoke runs everything and learns nothing; these numbers mean nothing."
    greedy, sampled = summary["accuracy_before_greedy"], summary["accuracy_before"]
    above = ", above that of its samples; the reward draws the samples towards it"
    return (
        f"With greedy decoding the accuracy of the warm start is {greedy:.3f}"
        f"{above if greedy > sampled else ''}. One seed of a small task shows that both "
        "trainers learn, not which of them is better; the README says what was seen over seeds."
    )
