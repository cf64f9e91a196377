"""What the quickstart says: which settings it changed and why, what came out, and where it ran."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from rich.table import Table

import trl_lambda
from trl_lambda import LambdaGRPOConfig

from .learning_curves import standard_error

# Why the quickstart sets what it sets.
REASONS = {
    "credit_log_steps": "for the report on single tokens",
    "bf16": "a model this small gains nothing from less than float32",
    "gradient_checkpointing": "it saves memory, of which there is enough, and costs time",
    "learning_rate": "1e-6 is for billions of weights; this model has 0.1 million",
    "logging_steps": "a point of the curve for each step",
    "max_completion_length": "the length of a solution: dr_grpo divides by this constant",
    "max_steps": "enough for this task; the default is three passes over all prompts",
    "per_device_train_batch_size": "64 completions a step over all processes: 8 groups of 8",
    "save_strategy": "the final model is enough",
    "seed": "--seed",
    "use_cpu": "there is no CUDA device",
}

Change = tuple[str, Any, Any, str]


def changed_settings(config: LambdaGRPOConfig, names: Iterable[str]) -> list[Change]:
    """(name, default, value, why) of those `names` whose value is not the package's default.

    Raises:
        KeyError: `REASONS` does not explain a change.
    """
    defaults = {f.name: f.default for f in fields(LambdaGRPOConfig) if f.default is not MISSING}
    return [
        (name, defaults[name], getattr(config, name), REASONS[name])
        for name in sorted(names)
        if getattr(config, name) != defaults[name]
    ]


def print_settings(console: Console, changes: list[Change]) -> None:
    table = Table(title="What differs from LambdaGRPOConfig's defaults", title_justify="left")
    for column in ("setting", "default", "here", "why"):
        table.add_column(column, overflow="fold")
    for name, default, value, why in changes:
        table.add_row(name, str(default), str(getattr(value, "value", value)), why)
    console.print(table)
    console.print("TRL's GRPOTrainer gets the same; all else is each trainer's own default.\n")


def print_results(
    console: Console, summary: dict[str, Any], folder: Path, credit_report: Path
) -> None:
    problems = summary["budget"]["held_out"]
    table = Table(title=f"Sampled accuracy on {problems} held-out problems", title_justify="left")
    for column in ("model", "accuracy ± standard error", "saved in"):
        table.add_column(column, overflow="fold")
    for name, key, place in (
        ("warm start", "accuracy_before", "warm_start"),
        ("TRL's GRPOTrainer", "accuracy_after_grpo", "grpo"),
        ("LambdaGRPOTrainer", "accuracy_after", "model"),
    ):
        error = standard_error(summary[key], problems)
        table.add_row(name, f"{summary[key]:.3f} ± {error:.3f}", str(folder / place))
    console.print(table)
    console.print(_comment(summary))
    console.print(f"picture  {folder / 'learning.png'}", soft_wrap=True)
    console.print(f"credit   {credit_report} (open it in a browser)", soft_wrap=True)
    console.print(f"numbers  {folder / 'summary.json'}", soft_wrap=True)
    console.print(f"{summary['seconds']:.0f} seconds in all")


def _comment(summary: dict[str, Any]) -> str:
    if summary["smoke"]:
        return "--smoke runs everything and learns nothing; these numbers mean nothing."
    return (
        f"Greedily the warm start reaches {summary['accuracy_before_greedy']:.3f}: its samples say "
        "less than it knows, and the reward draws them towards that. One seed of a small task "
        "shows that both trainers learn, not which of them is better."
    )


def surroundings() -> dict[str, Any]:
    """Device, processes, threads and versions, for the record."""
    cuda = torch.cuda.is_available()
    packages = ("torch", "transformers", "accelerate", "trl")
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "processes": PartialState().num_processes,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
            "trl_lambda": trl_lambda.__version__,
        },
    }
