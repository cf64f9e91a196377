"""One run: a method on a task with a learning rate and a seed, from the shared start."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from quickstart_parts.measuring import MeasuringCallback
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer

from ..quiet import QUIET
from .methods import METHODS
from .policy import FastPolicy, encode, gold_probability, sample, tokenizer
from .tasks import TASKS, Problem, Task
from .warm_start import held_out, others, warm_start

WARM_UP = 10  # optimiser steps
ADAM_BETA2 = 0.9
# Progress bars and logs of hundreds of runs of seconds would fill the terminal that they share.
SILENT = QUIET | {"use_cpu": True, "logging_strategy": "no"}


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

    Sampled with a seed of its own, and the caller's random state is put back: a run that is
    measured trains as one that is not.

    Attributes:
        points: (optimiser step, completion tokens generated so far, accuracy). What completions
            share with the one that they were forked from was generated once.
        prompt_tokens: of all completions so far; TRL counts them with what is generated.
    """

    def __init__(self, task: Task, problems: list[Problem], encoder, every: int):
        super().__init__(every)
        self.task, self.problems, self.encoder = task, problems, encoder
        self.points: list[tuple[int, int, float]] = []
        self.prompt_tokens = 0

    def measure(self, model, state) -> None:
        value = accuracy(model, self.task, self.problems, self.encoder)
        generated = state.num_input_tokens_seen - self.prompt_tokens
        self.points.append((state.global_step, generated, round(value, 4)))


def accuracy(model, task: Task, problems: list[Problem], encoder) -> float:
    """Probability of the gold where that is all that is right; else the share of samples."""
    if task.exact:
        prompts, golds = [p.prompt for p in problems], [p.gold for p in problems]
        return gold_probability(model, encoder, prompts, golds).mean().item()
    problems = problems * task.measured
    prompts = [p.prompt for p in problems]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = sample(model, encode(encoder, prompts), tokens=task.tokens, end=encoder.eos_token_id)
    texts = encoder.batch_decode(rows, skip_special_tokens=True)
    return sum(task.reward(t, p.gold) for t, p in zip(texts, problems, strict=True)) / len(texts)


def train(run: Run, warm_starts: Path) -> dict[str, Any]:
    """Trains, measures, and says what came out.

    Args:
        warm_starts: folder of the shared starts; see `warm_start`.

    Returns:
        `curve` (see `Curve`), `rewards` (mean training reward of each generation), `cpu_seconds`.
    """
    began = time.process_time()
    torch.set_num_threads(1)
    task = TASKS[run.task]
    with tempfile.TemporaryDirectory() as folder:  # the Trainer wants one, and nothing stays in it
        trainer, curve, rewards = make_trainer(run, warm_start(task, warm_starts), folder)
        trainer.train()
    return {
        "curve": curve.points,
        "rewards": rewards,
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def make_trainer(run: Run, start: Path, folder: str) -> tuple[GRPOTrainer, Curve, list[float]]:
    task, method = TASKS[run.task], METHODS[run.method]
    encoder = tokenizer(task)
    stock = method.trainer == "stock"
    told = settings(task, run, folder) | method.told
    config = (GRPOConfig if stock else LambdaGRPOConfig)(**told)
    updates = run.generations * task.updates
    curve = Curve(task, held_out(task), encoder, max(1, updates // task.measurements))
    rewards: list[float] = []

    def outcome(prompts, completions, gold, **columns):
        values = [task.reward(c, g) for c, g in zip(completions, gold, strict=True)]
        rewards.append(round(sum(values) / len(values), 3))
        curve.prompt_tokens += encode(encoder, prompts).numel()
        return values

    def stepwise(completions, gold, **columns):
        return [task.steps(c, g) for c, g in zip(completions, gold, strict=True)]

    problems = others(task, 2_000)
    rows = [{"prompt": p.prompt, "gold": p.gold} for p in problems]
    process = {"process_reward_funcs": stepwise} if method.needs_steps else {}
    trainer = (GRPOTrainer if stock else LambdaGRPOTrainer)(
        FastPolicy.from_pretrained(start, dtype=torch.float32),
        outcome,
        config,
        train_dataset=Dataset.from_list(rows * (1 + task.groups * run.generations // len(rows))),
        processing_class=encoder,
        callbacks=[curve],
        **process,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, curve, rewards


def settings(task: Task, run: Run, folder: str) -> dict[str, Any]:
    """What all methods are told; what a method sets comes on top."""
    completions = round(METHODS[run.method].group_share * task.completions)
    return SILENT | {
        "output_dir": folder,
        "seed": run.seed,
        "learning_rate": run.learning_rate,
        # Adam's first steps move every weight by the whole rate, also those of tokens that are as
        # good as certain: without warm-up they break the fixed texts.
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": WARM_UP,
        # A run has some hundred steps: with 0.999 the second moment still remembers the first at
        # the last, and a token that rarely goes wrong is punished in steps too large for it.
        "adam_beta2": ADAM_BETA2,
        "max_steps": run.generations * task.updates,
        "num_iterations": task.updates,
        "num_generations": completions,
        "per_device_train_batch_size": task.groups * completions,
        "max_completion_length": task.tokens,
    }
