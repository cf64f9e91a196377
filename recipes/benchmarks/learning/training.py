"""One run: a method on a task with a learning rate and a seed, from the shared start."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from quickstart_parts.measuring import MeasuringCallback
from transformers import PrinterCallback, Trainer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer

from ..quiet import QUIET
from .methods import METHODS
from .policy import FastPolicy, encode, gold_probability, sample, tokenizer
from .tasks import TASKS, Problem, Task
from .warm_start import held_out, others, warm_start

WARM_UP = 10  # optimiser steps
ADAM_BETA2 = 0.9
PASS_OF = 8  # samples, of which one has to be right
TRAINERS: dict[str, tuple[type, type[Trainer]]] = {
    "GRPOTrainer": (GRPOConfig, GRPOTrainer),
    "RLOOTrainer": (RLOOConfig, RLOOTrainer),
    "LambdaGRPOTrainer": (LambdaGRPOConfig, LambdaGRPOTrainer),
}
# Progress bars and logs of hundreds of runs of seconds would fill the terminal that they share.
SILENT = QUIET | {"use_cpu": True, "logging_strategy": "steps", "logging_steps": 1}


@dataclass(frozen=True)
class Run:
    """What is trained; the same run gives the same numbers on the same machine."""

    task: str
    method: str
    learning_rate: float
    seed: int
    generations: int


class Curve(MeasuringCallback):
    """Held-out accuracy before the first step, along the run, and after the last step.

    A run that is measured trains as one that is not: where samples are drawn, they have a seed of
    their own, and the caller's random state is put back.

    Attributes:
        points: (optimiser step, completion tokens generated so far, accuracy, pass@8); without the
            last where accuracy is sampled. What completions share with the one that they were
            forked from was generated once.
        prompt_tokens: of all completions so far; TRL counts them with what is generated.
    """

    def __init__(self, task: Task, problems: list[Problem], encoder, every: int):
        super().__init__(every)
        self.task, self.problems, self.encoder = task, problems, encoder
        self.points: list[tuple[float, ...]] = []
        self.prompt_tokens = 0

    def measure(self, model, state) -> None:
        values = measured(model, self.task, self.problems, self.encoder)
        generated = state.num_input_tokens_seen - self.prompt_tokens
        self.points.append((state.global_step, generated, *(round(v, 5) for v in values)))


def measured(model, task: Task, problems: list[Problem], encoder) -> tuple[float, ...]:
    """(accuracy, pass@8) where one completion alone is right; else (accuracy,) of samples."""
    if not task.exact:
        return (sampled_accuracy(model, task, problems, encoder),)
    prompts, golds = [p.prompt for p in problems], [p.gold for p in problems]
    # A policy whose weights are NaN writes no gold.
    chance_N = gold_probability(model, encoder, prompts, golds).double().nan_to_num(0.0)
    return chance_N.mean().item(), (1 - (1 - chance_N) ** PASS_OF).mean().item()


def sampled_accuracy(model, task: Task, problems: list[Problem], encoder) -> float:
    problems = problems * task.measured
    prompts = [p.prompt for p in problems]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = sample(model, encode(encoder, prompts), tokens=task.tokens, end=encoder.eos_token_id)
    texts = encoder.batch_decode(rows, skip_special_tokens=True)
    return sum(task.reward(t, p.gold) for t, p in zip(texts, problems, strict=True)) / len(texts)


@dataclass
class Rollouts:
    """What the completions of each generation were like.

    Attributes:
        rewards: their mean.
        format: the share that has the gold's characters wherever these are no digits.
        decided: of those that failed, the share whose first character that differs from the gold
            stands where the task says that it is decided; None where none failed.
    """

    rewards: list[float] = field(default_factory=list)
    format: list[float] = field(default_factory=list)
    decided: list[float | None] = field(default_factory=list)

    def add(self, task: Task, completions: Sequence[str], golds: Sequence[str]) -> list[float]:
        """Their rewards."""
        pairs = list(zip(completions, golds, strict=True))
        rewards = [task.reward(*pair) for pair in pairs]
        first = [first_difference(*pair) for pair in pairs if pair[0] != pair[1]]
        self.rewards.append(mean(rewards))
        self.format.append(mean([without_digits(c) == without_digits(g) for c, g in pairs]))
        self.decided.append(mean([i in task.decisions for i in first]) if first else None)
        return rewards


def mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def without_digits(text: str) -> str:
    """The text with a blank for each digit, so that places stay."""
    return "".join(" " if c in "0123456789" else c for c in text)


def first_difference(text: str, gold: str) -> int:
    """The first index at which two different texts differ; of a prefix, its length."""
    pairs = zip(text, gold, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(text), len(gold)))


def train(run: Run, warm_starts: Path) -> dict[str, Any]:
    """Trains, measures, and says what came out.

    Args:
        warm_starts: folder of the shared starts; see `warm_start`.

    Returns:
        `curve` (see `Curve.points`), `rewards`, `format`, `decided` (see `Rollouts`), `entropy` and
        `length` (of the policy and its completions, at each step), `cpu_seconds`.
    """
    began = time.process_time()
    torch.set_num_threads(1)
    task = TASKS[run.task]
    with tempfile.TemporaryDirectory() as folder:  # the Trainer wants one, and nothing stays in it
        trainer, curve, rollouts = make_trainer(run, warm_start(task, warm_starts), folder)
        trainer.train()
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    return {
        "curve": curve.points,
        **vars(rollouts),
        "entropy": [round(float(step["entropy"]), 4) for step in steps],
        "length": [round(float(step["completions/mean_length"]), 2) for step in steps],
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def make_trainer(run: Run, start: Path, folder: str) -> tuple[Trainer, Curve, Rollouts]:
    task, method = TASKS[run.task], METHODS[run.method]
    encoder = tokenizer(task)
    config_class, trainer_class = TRAINERS[method.trainer]
    config = config_class(**settings(task, run, folder) | method.told)
    every = max(1, config.max_steps // task.measurements)
    curve, rollouts = Curve(task, held_out(task), encoder, every), Rollouts()

    def outcome(prompts, completions, gold, **columns):
        curve.prompt_tokens += encode(encoder, prompts).numel()
        return rollouts.add(task, completions, gold)

    rows = [vars(problem) for problem in others(task, 2_000)]
    trainer = trainer_class(
        model=FastPolicy.from_pretrained(start, dtype=torch.float32),
        reward_funcs=outcome,
        args=config,
        train_dataset=Dataset.from_list(rows * (1 + task.groups * config.max_steps // len(rows))),
        processing_class=encoder,
        callbacks=[curve],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, curve, rollouts


def settings(task: Task, run: Run, folder: str) -> dict[str, Any]:
    """What all methods are told; what a method sets comes on top."""
    method = METHODS[run.method]
    completions = round(method.group_share * task.completions)
    return SILENT | {
        "output_dir": folder,
        "seed": run.seed,
        "learning_rate": run.learning_rate,
        # Adam's first steps move every weight by the whole rate, also those of tokens that are as
        # good as certain: without warm-up they break the fixed texts.
        "lr_scheduler_type": task.schedule,
        "warmup_steps": WARM_UP,
        # A run has some dozen steps: with 0.999 the second moment still remembers the first at
        # the last, and a token that rarely goes wrong is punished in steps too large for it.
        "adam_beta2": ADAM_BETA2,
        "max_grad_norm": task.max_grad_norm,
        "max_steps": round(run.generations * method.steps_share),
        "num_generations": completions,
        "per_device_train_batch_size": task.groups * completions,
        "max_completion_length": task.tokens,
    }
