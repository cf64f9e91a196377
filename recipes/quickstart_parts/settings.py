"""How much the quickstart does, what it tells the trainers, and why that differs from the defaults.

Both GRPO trainers get the same settings, but for the method and a learning rate that was tried for
each of them alike; all else is each trainer's own default.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
from accelerate import PartialState

from trl_lambda import LambdaGRPOConfig

from .blanks import SOLUTION_TOKENS

METHOD = "branch"
BRANCH_AT = "entropy"
LABEL_NOISE = 0.15
# LambdaGRPOTrainer's and TRL's GRPOTrainer's: the best for each of 1.2e-3, 2.4e-3 and 4.8e-3. The
# commands are in benchmarks/quickstart_seeds.py.
RATES = (2.4e-3, 2.4e-3)


@dataclass(frozen=True)
class Budget:
    """How much is done; both GRPO runs get the same."""

    demonstrations: int = 5_120
    warm_start_steps: int = 160
    warm_start_batch: int = 32
    prompts: int = 1_024
    steps: int = 60
    completions: int = 64
    held_out: int = 512
    measure_every: int = 20
    record_every: int = 5


FULL = Budget()
SMOKE = Budget(
    demonstrations=640,
    warm_start_steps=20,
    prompts=64,
    steps=3,
    held_out=64,
    measure_every=2,
    record_every=1,
)

# Why the quickstart sets what it sets.
REASONS = {
    "adam_beta2": "with 0.999 the gradients of the first steps still count at the last",
    "credit_log_steps": "for the report on single tokens",
    "branch_at": "forks where the policy is uncertain: at the tokens that decide",
    "bf16": "a model this small gains nothing from less than float32",
    "gradient_checkpointing": "it saves memory, of which there is enough, and costs time",
    "learning_rate": "1e-6 is for billions of weights; this model has 0.1 million",
    "logging_steps": "a point of the curve for each step",
    "max_completion_length": "the length of every solution, its end included",
    "max_steps": "enough for this task; the default is three passes over all prompts",
    "method": "completions forked from one another: fewer tokens to generate, credit at the forks",
    "per_device_train_batch_size": "64 completions a step over all processes: 8 groups of 8",
    "save_strategy": "the final model is enough",
    "seed": "--seed",
    "use_cpu": "there is no CUDA device",
    "warmup_steps": "a tenth of all: Adam's first steps move every weight by the whole rate",
}

Change = tuple[str, Any, Any, str]


def common_settings(seed: int) -> dict[str, Any]:
    """Settings of all three trainers."""
    return {
        "seed": seed,
        "bf16": False,
        # CUDA or CPU: on Apple's MPS this has not been tried, and the CPU is fast enough.
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": False,
        "save_strategy": "no",
    }


def warm_start_settings(budget: Budget, seed: int) -> dict[str, Any]:
    """Settings of the SFTTrainer."""
    return common_settings(seed) | {
        "max_steps": budget.warm_start_steps,
        "per_device_train_batch_size": per_process(budget.warm_start_batch, "demonstrations"),
        "learning_rate": 4e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.2,
        "adam_beta2": 0.99,
        "completion_only_loss": True,
        "logging_steps": 10,
    }


def grpo_settings(budget: Budget, seed: int) -> dict[str, Any]:
    """Settings of both GRPO trainers, but for the learning rate."""
    return common_settings(seed) | {
        "max_steps": budget.steps,
        "warmup_steps": 0.1,
        "adam_beta2": 0.95,
        "per_device_train_batch_size": per_process(budget.completions, "completions"),
        "max_completion_length": SOLUTION_TOKENS,
        "logging_steps": 1,
    }


def own_settings(budget: Budget) -> dict[str, Any]:
    """Settings that LambdaGRPOTrainer gets beyond those."""
    return {
        "method": METHOD,
        "branch_at": BRANCH_AT,
        "credit_log_steps": budget.record_every,
    }


def per_process(total: int, what: str) -> int:
    """Each process's share of `total`, which does not depend on how many there are."""
    processes = PartialState().num_processes
    if total % processes:
        raise SystemExit(
            f"{total} {what} a step cannot be shared evenly by {processes} processes; launch with "
            f"--num_processes 1, 2, 4 or 8."
        )
    return total // processes


def rate(text: str) -> float:
    """A learning rate of the command line."""
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


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
