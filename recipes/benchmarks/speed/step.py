"""A training step with everything on against stock GRPO: time, time in our calls, memory.

On a CUDA device time is the device's own, between events in its stream, and memory is what PyTorch
had allocated at most: what the trainer holds between steps, and what a step takes beyond that. On a
CPU time is the wall clock's, and memory is what a step takes.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from trl import GRPOConfig, GRPOTrainer

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer

from .. import scripted
from ..quiet import QUIET
from .measuring import (
    Clock,
    CudaClock,
    Median,
    cuda_peak,
    median,
    megabytes,
    on_cuda,
    seconds_by,
    step_clock,
)
from .shapes import GROUP, Shape

# What costs most of all that can be told: a trace in the loss, its slower style, process sets.
EVERYTHING = {
    "trace_mode": "ratio",
    "trace_style": "both",
    "process_set_weighting": True,
}


@dataclass
class Measured:
    """What a number of steps took, by trainer: seconds, and bytes at their peak.

    Attributes:
        own_share: percent of a step of ours inside our own calls.
    """

    seconds: dict[str, list[float]]
    peak: dict[str, list[float]]
    own_share: list[float] = field(default_factory=list)


def training_step(rounds: int, shape: Shape) -> list[dict]:
    """Steps of three trainers in turn: stock, stock again (the A/A control), ours with all on."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            "stock": make_trainer(GRPOTrainer, GRPOConfig, shape, folder),
            "control": make_trainer(GRPOTrainer, GRPOConfig, shape, folder),
            "ours": make_trainer(LambdaGRPOTrainer, LambdaGRPOConfig, shape, folder, **EVERYTHING),
        }
        for trainer in trainers.values():
            whole_step(trainer)  # makes the optimiser's state
        return rows(measured(trainers, rounds), rounds)


def measured(trainers: dict[str, GRPOTrainer], rounds: int) -> Measured:
    """Steps in turn. On a CUDA device each tells its peak, on a CPU one beforehand does."""
    peak: dict[str, list[float]] = {name: [] for name in trainers}
    if not on_cuda():
        # Counting bytes slows a CPU down. Weights and the optimiser's state are not in it.
        peak = {
            name: [1e6 * megabytes(lambda t=one: whole_step(t))] for name, one in trainers.items()
        }
    found = Measured({name: [] for name in trainers}, peak)
    clock, own_calls = step_clock(), mark_own_calls(trainers["ours"])
    for turn in track(range(rounds), description="training steps"):
        # The order rotates, so that no trainer always runs on the warmest cache.
        for name in rotated(list(trainers), turn):
            own_calls.clear()
            timed_step(trainers[name], name, found, clock)
            if name == "ours":
                own = sum(clock.between(*call) for call in own_calls)
                found.own_share.append(100 * own / found.seconds[name][-1])
    return found


def timed_step(trainer: GRPOTrainer, name: str, found: Measured, clock: Clock | CudaClock) -> None:
    def run() -> None:
        found.seconds[name].append(seconds_by(clock, lambda: whole_step(trainer)))

    if on_cuda():
        found.peak[name].append(cuda_peak(run) + held_bytes(trainer))
    else:
        run()


def rows(found: Measured, rounds: int) -> list[dict]:
    """Time and memory of ours and of the control, in percent of stock's."""
    took = {name: 1e3 * median(values).value for name, values in found.seconds.items()}
    peaks = {name: 1e-6 * median(values).value for name, values in found.peak.items()}
    counted = "memory" if not on_cuda() else "memory, with weights and optimiser"
    return [
        row("share of a step inside our own calls", median(found.own_share)),
        row(f"time of a step, ours / stock, {rounds} pairs", pairs(found.seconds, "ours"))
        | {"ours_ms": took["ours"], "stock_ms": took["stock"]},
        row(f"time of a step, stock / stock, {rounds} pairs", pairs(found.seconds, "control")),
        row(f"peak {counted}, ours / stock ({peaks['stock']:.0f} MB)", pairs(found.peak, "ours"))
        | {"ours_mb": peaks["ours"], "stock_mb": peaks["stock"]},
        row(f"peak {counted}, stock / stock", pairs(found.peak, "control")),
    ]


def row(what: str, percent: Median) -> dict:
    return {"what": what, "percent": percent.value, "interval": [percent.low, percent.high]}


def pairs(values: dict[str, list[float]], name: str) -> Median:
    """Percent by which the steps of a pair differ."""
    both = zip(values[name], values["stock"], strict=True)
    return median([100 * (own / stock - 1) for own, stock in both])


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


def whole_step(trainer: GRPOTrainer) -> None:
    """Scores a batch, and trains on it: every micro-batch, and one optimiser step."""
    for _ in range(trainer.args.gradient_accumulation_steps - 1):
        step(trainer, optimize=False)
    step(trainer)


def held_bytes(trainer: GRPOTrainer) -> int:
    """Of what stays between steps: the weights, those of the reference model, Adam's state."""
    models = [trainer.model, trainer.ref_model]
    held = [
        tensor
        for model in models
        if model is not None
        for tensor in itertools.chain(model.parameters(), model.buffers())
    ]
    held += [
        value
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.device.type == trainer.accelerator.device.type
    ]
    return sum(tensor.nbytes for tensor in held)


def mark_own_calls(trainer: LambdaGRPOTrainer) -> list[tuple[Any, Any]]:
    """Wraps what the subclass adds to a step; the list receives the two marks of each call."""
    calls: list[tuple[Any, Any]] = []
    clock = step_clock()

    def marked(function):
        def wrapper(*args, **kwargs):
            start = clock.mark()
            result = function(*args, **kwargs)
            calls.append((start, clock.mark()))
            return result

        return wrapper

    plan_of = trainer._plan_loss

    def plan_loss(inputs, mask):
        plan = marked(plan_of)(inputs, mask)
        plan.trace = marked(plan.trace)
        return plan

    trainer._credit = marked(trainer._credit)
    trainer._plan_loss = plan_loss
    trainer._kl_term = marked(trainer._kl_term)
    return calls


def make_trainer(trainer_class, config_class, shape: Shape, folder: str, **settings):
    """By default three million parameters: the model, not the credit, is what takes the time."""
    size = shape.micro_batch or GROUP * shape.groups
    sizes = {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": GROUP * shape.groups // size,
        "beta": 0.04,
    }
    config = config_class(
        output_dir=folder,
        num_generations=GROUP,
        max_completion_length=shape.length,
        max_steps=1,
        loss_type="dapo",
        **(QUIET | sizes | settings),
    )
    trainer = scripted.trainer(
        trainer_class,
        config,
        scripted.branching_completions(groups=shape.groups, size=GROUP, length=shape.length),
        model_config=shape.model_config(),
        model_folder=Path(folder) / "model",
        dtype=shape.dtype,
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
    trainer.model.train()
    if shape.checkpointing:  # else done by `train`, which is not called
        model = trainer.model
        # Transformers has renamed it.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    return trainer
