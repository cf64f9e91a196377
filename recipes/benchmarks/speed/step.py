"""A training step with everything on against stock GRPO: time, time in our calls, memory."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track
from trl import GRPOConfig, GRPOTrainer

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer

from .. import scripted
from ..quiet import QUIET
from .measuring import Median, median, megabytes, seconds

# What costs most of all that can be told: a trace in the loss, its slower style, process sets.
EVERYTHING = {
    "trace_mode": "ratio",
    "trace_style": "both",
    "process_set_weighting": True,
}


@dataclass(frozen=True)
class Shape:
    """Sizes of the model and of a batch; completions a group are 8."""

    hidden_size: int = 256
    layers: int = 4
    groups: int = 2
    length: int = 256


def training_step(rounds: int, shape: Shape) -> list[dict]:
    """Steps of three trainers in turn: stock, stock again (the A/A control), ours with all on."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            "stock": make_trainer(GRPOTrainer, GRPOConfig, shape, folder),
            "control": make_trainer(GRPOTrainer, GRPOConfig, shape, folder),
            "ours": make_trainer(LambdaGRPOTrainer, LambdaGRPOConfig, shape, folder, **EVERYTHING),
        }
        memory = {name: peak_megabytes(trainer) for name, trainer in trainers.items()}
        own_calls = time_own_calls(trainers["ours"])
        times: dict[str, list[float]] = {name: [] for name in trainers}
        own_share = []
        for turn in track(range(rounds), description="training steps"):
            # The order rotates, so that no trainer always runs on the warmest cache.
            for name in rotated(list(trainers), turn):
                own_calls.clear()
                elapsed = seconds(lambda name=name: step(trainers[name]))
                times[name].append(elapsed)
                if name == "ours":
                    own_share.append(100 * sum(own_calls) / elapsed)
    extra = {name: 100 * (memory[name] / memory["stock"] - 1) for name in ("ours", "control")}
    return [
        row("share of a step inside our own calls", median(own_share)),
        row(f"time of a step, ours / stock, {rounds} pairs", pairs(times, "ours")),
        row(f"time of a step, stock / stock, {rounds} pairs", pairs(times, "control")),
        row(f"peak memory, ours / stock ({memory['stock']:.0f} MB)", Median(*[extra["ours"]] * 3)),
        row("peak memory, stock / stock", Median(*[extra["control"]] * 3)),
    ]


def row(what: str, percent: Median) -> dict:
    return {"what": what, "percent": percent.value, "interval": [percent.low, percent.high]}


def pairs(times: dict[str, list[float]], name: str) -> Median:
    """Percent by which the steps of a pair differ."""
    both = zip(times[name], times["stock"], strict=True)
    return median([100 * (ours / stock - 1) for ours, stock in both])


def rotated(names: list[str], turn: int) -> list[str]:
    first = turn % len(names)
    return names[first:] + names[:first]


def step(trainer: GRPOTrainer, *, optimize: bool = True) -> None:
    """Score a batch, one forward and backward pass, one optimiser step; no sampling."""
    batch = [scripted.ROW] * trainer.args.generation_batch_size
    inputs = trainer._prepare_inputs(batch)
    trainer.compute_loss(trainer.model, inputs).backward()
    if optimize:
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    trainer._step += 1


def peak_megabytes(trainer: GRPOTrainer) -> float:
    """Of a second step: the first makes the optimiser's state. Weights and state are not in it."""
    step(trainer)
    return megabytes(lambda: step(trainer))


def time_own_calls(trainer: LambdaGRPOTrainer) -> list[float]:
    """Wraps what the subclass adds to a step; the list receives the seconds of each call."""
    spent: list[float] = []

    def timed(function):
        def wrapper(*args, **kwargs):
            result = []
            spent.append(seconds(lambda: result.append(function(*args, **kwargs))))
            return result[0]

        return wrapper

    plan_of = trainer._plan_loss

    def plan_loss(inputs, mask):
        plan = timed(plan_of)(inputs, mask)
        plan.trace = timed(plan.trace)
        return plan

    trainer._credit = timed(trainer._credit)
    trainer._plan_loss = plan_loss
    trainer._kl_term = timed(trainer._kl_term)
    return spent


def make_trainer(trainer_class, config_class, shape: Shape, folder: str, **settings):
    """By default three million parameters: the model, not the credit, is what takes the time."""
    sizes = {"per_device_train_batch_size": 8 * shape.groups, "beta": 0.04}
    config = config_class(
        output_dir=folder,
        num_generations=8,
        max_completion_length=shape.length,
        max_steps=1,
        loss_type="dapo",
        **QUIET,
        **(sizes | settings),
    )
    trainer = scripted.trainer(
        trainer_class,
        config,
        scripted.branching_completions(groups=shape.groups, size=8, length=shape.length),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        model_folder=Path(folder) / "model",
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
    trainer.model.train()
    return trainer
