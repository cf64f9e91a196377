"""One run: an arm with a learning rate and a seed, from the shared start; it survives a kill."""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from quickstart_parts.measuring import MeasuringCallback
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PrinterCallback,
    TrainerCallback,
    TrainerState,
)

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer
from trl_lambda.atomic_write import replace_json
from trl_lambda.rewards import math_reward

from ..quiet import QUIET
from . import arms
from .sampling import measure
from .tasks import Row, Task, first

# Of TRL's metrics, those that a curve against steps is made of.
LOGGED = ("reward", "entropy", "grad_norm", "completions/mean_length", "frac_reward_zero_std")

GENERATED = "rollout/generated_tokens"
# Of a method that asks: what the probe knew, at each step; None where a batch could not tell.
PROBE = "probe/"
SAID = ("probe/auc_before_last_quarter", "probe/auc_within_groups", "probe/auc_recent")


@dataclass(frozen=True)
class Size:
    """How much of everything, the same for all arms.

    Attributes:
        groups, completions: prompts of a step, and completions of each.
        micro_batch: completions that go through the model at a time.
        steps: optimiser steps; one update on each batch of completions.
        measurements: along the run; the start is measured once for all runs.
        held_out, samples: problems of a measurement, and samples of each.
        measured_at_once: samples that are drawn at a time.
        checkpoint_every: steps; what a kill loses at most.

    Its fields are in the keys of runs: with another field, all older runs are lost.
    """

    groups: int = 4
    completions: int = 8
    micro_batch: int = 16
    steps: int = 40
    measurements: int = 2
    held_out: int = 128
    samples: int = 8
    measured_at_once: int = 128
    checkpoint_every: int = 10

    def at_once(self) -> int:
        """Completions that go through the model at a time."""
        return min(self.micro_batch, self.groups * self.completions)


@dataclass(frozen=True)
class Run:
    """What is trained; the same run gives the same numbers on the same machine.

    Attributes:
        part: the problems that it is measured on, `validation` or `held_out`.
    """

    task: str
    arm: str
    learning_rate: float
    seed: int
    part: str


class Curve(MeasuringCallback):
    """Held-out measurements along the run, and what it took; kept beside each checkpoint.

    Attributes:
        points: `step`, `generated_tokens` so far, `seconds` so far without measurements, and what
            `sampling.Measurement` has.
        sampled: tokens of the completions since the last log.
        tokens: generated for training. A rollout that shares beginnings logs what it generated,
            which is less than the sum of its completions.
    """

    def __init__(self, size: Size, measured: Callable[[Any], dict], start: dict):
        super().__init__(max(1, size.steps // size.measurements))
        self.measured = measured
        self.points = [{"step": 0, "generated_tokens": 0, "seconds": 0.0} | start]
        self.sampled, self.tokens, self.seconds, self.began = 0, 0, 0.0, 0.0

    def measure(self, model, state) -> None:
        if state.global_step == 0:
            return  # the start is measured once for all runs
        self.pause()
        told = {"step": state.global_step, "generated_tokens": self.tokens}
        self.points.append(told | {"seconds": round(self.seconds, 1)} | self.measured(model))
        self.began = time.monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """At every step, after its measurement and before its checkpoint."""
        if "reward" not in (logs or {}):
            return
        self.tokens += round(logs.get(GENERATED, self.sampled))
        self.sampled = 0
        if self.points[-1]["step"] == state.global_step:
            self.points[-1]["generated_tokens"] = self.tokens

    def pause(self) -> None:
        now = time.monotonic()
        self.seconds, self.began = self.seconds + now - self.began, now

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = time.monotonic()
        if state.global_step:
            self.take_up(args, state)

    def take_up(self, args, state) -> None:
        """What was kept beside the checkpoint of `state`."""
        kept = json.loads(self.place(args, state).read_text())
        self.points, self.tokens = kept["points"], kept["tokens"]
        self.seconds = kept["seconds"]

    def on_save(self, args, state, control, **kwargs):
        self.pause()
        kept = {"points": self.points, "tokens": self.tokens, "seconds": self.seconds}
        replace_json(self.place(args, state), kept)

    @staticmethod
    def place(args, state) -> Path:
        return Path(args.output_dir) / f"curve-{state.global_step}.json"


class Said(TrainerCallback):
    """One line a step in the process's own log: a run of an hour should not be silent."""

    def __init__(self, run: Run):
        self.run = run

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "reward" in (logs or {}):
            knew = "".join(
                f", {name.removeprefix(PROBE)} {logs[name]:.3f}" for name in SAID if name in logs
            )
            print(
                f"{self.run.arm} at {self.run.learning_rate:g}, seed {self.run.seed}, step "
                f"{state.global_step} of {state.max_steps}: reward {logs['reward']:.3f}, entropy "
                f"{logs['entropy']:.3f}, length {logs['completions/mean_length']:.1f}{knew}",
                flush=True,
            )


def train(
    run: Run,
    task: Task,
    size: Size,
    start: str,
    measured_start: dict,
    folder: Path,
    kept: Path | None = None,
) -> dict:
    """Trains, measures, and says what came out.

    Args:
        start: folder or name of the model that all runs begin with.
        measured_start: what `measure_start` said of it.
        folder: the run's own; a checkpoint that is there is resumed, and at the end it goes.
        kept: where the trained model and its tokenizer go; None keeps neither.

    Returns:
        `curve` (see `Curve.points`), `log` (for each metric of `LOGGED`, and of an answer probe,
        its value at each step), `seconds`, `generated_tokens`.
    """
    last = last_checkpoint(folder)
    if last is not None and step_of(last) == size.steps:
        # Resumed, transformers would take one step more before it looks how many there should be.
        trainer, curve = make_trainer(run, task, size, str(last), measured_start, folder)
        trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
        curve.take_up(trainer.args, trainer.state)
    else:
        trainer, curve = make_trainer(run, task, size, start, measured_start, folder)
        trainer.train(resume_from_checkpoint=last and str(last))
    if kept is not None:
        trainer.save_model(str(kept))
    remove(folder)
    return {
        "curve": curve.points,
        "log": logged(trainer.state.log_history),
        "seconds": curve.points[-1]["seconds"],
        "generated_tokens": curve.tokens,
    }


def logged(history: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """Each metric's value at each step, None where it has none."""
    steps = [entry for entry in history if "reward" in entry]
    asked = sorted({name for entry in steps for name in entry if name.startswith(PROBE)})
    return {
        name: [round(float(step[name]), 5) if name in step else None for step in steps]
        for name in (*LOGGED, *asked)
    }


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose curve is there as well."""
    found = {
        step_of(path): path
        for path in folder.glob("checkpoint-*")
        if (folder / f"curve-{step_of(path)}.json").exists()
    }
    return found[max(found)] if found else None


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def remove(folder: Path) -> None:
    """Out of the way first: what a kill left of a checkpoint would be taken for a whole one."""
    ended = folder.with_name(f"{folder.name}-ended")
    shutil.rmtree(ended, ignore_errors=True)
    folder.rename(ended)
    shutil.rmtree(ended)


def make_trainer(
    run: Run, task: Task, size: Size, start: str, measured_start: dict, folder: Path
) -> tuple[LambdaGRPOTrainer, Curve]:
    tokenizer = AutoTokenizer.from_pretrained(start)
    rows = first(task, run.part, size.held_out)
    curve = Curve(size, lambda model: measured(model, tokenizer, rows, task, size), measured_start)

    def reward(completions, completion_ids, answers, **columns):
        curve.sampled += sum(map(len, completion_ids))
        return math_reward(completions, answers=answers)

    trainer = LambdaGRPOTrainer(
        AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32),
        reward,
        make_config(run, task, size, folder),
        train_dataset=Dataset.from_list(task.part("training")),
        processing_class=tokenizer,
        callbacks=[curve, Said(run)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, curve


def make_config(run: Run, task: Task, size: Size, folder: Path) -> LambdaGRPOConfig:
    return LambdaGRPOConfig(**config(run, task, size, folder) | arms.settings(run.arm))


def config(run: Run, task: Task, size: Size, folder: Path) -> dict[str, Any]:
    """What all arms are told; what an arm sets comes on top."""
    rows, at_once = size.groups * size.completions, size.at_once()
    return QUIET | {
        "output_dir": str(folder),
        "seed": run.seed,
        "learning_rate": run.learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": min(5, size.steps),
        "max_steps": size.steps,
        "num_generations": size.completions,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": rows // at_once,
        "max_completion_length": task.tokens,
        "logging_steps": 1,
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "save_strategy": "steps",
        "save_steps": size.checkpoint_every,
        # A checkpoint is of use with its curve, which is written after older ones are removed.
        "save_total_limit": 2,
    }


def measured(model, tokenizer, rows: list[Row], task: Task, size: Size) -> dict:
    return asdict(
        measure(
            model,
            tokenizer,
            rows,
            k=size.samples,
            tokens=task.tokens,
            batch=size.measured_at_once,
        )
    )


def measure_start(task: Task, size: Size, start: str, part: str) -> dict:
    """What all runs begin with."""
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    if torch.cuda.is_available():
        model.cuda()
    rows = first(task, part, size.held_out)
    found = measured(model, AutoTokenizer.from_pretrained(start), rows, task, size)
    del model
    # The trainings share the card with this process, which has no more use for it.
    gc.collect()
    torch.cuda.empty_cache()
    return found
