"""Steps with an answer probe against stock GRPO: in TRL's own pass, packed, and one by one.

Eight segments a completion, probes of twelve tokens with golds of four: sixteen and one repeated
token a segment. A step is a batch scored and trained on once, without sampling and without a
reference model, in two micro-batches. Where both make one optimiser step TRL needs no old
log-probabilities; where each makes one it does, as always with vLLM and its correction.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence

from rich.progress import track
from trl import GRPOConfig, GRPOTrainer

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer

from .measuring import busy_seconds, median, megabytes
from .shapes import GROUP, Shape
from .step import make_trainer, rotated, step

SEGMENTS, MICRO_BATCHES = 8, 2
PROBE = " ".join(str(number) for number in range(20, 32)) + " "
LENGTHS = (128, 256, 1024)
# What is measured, where TRL makes a pass of its own and where it makes none.
WAYS = {
    True: ("stock again", "in TRL's pass", "packed", "one by one"),
    False: ("stock again", "packed", "one by one"),
}


def probed_steps(rounds: int, shape: Shape, lengths: Sequence[int] = LENGTHS) -> list[dict]:
    """One row for each length, kind of step and way to score."""
    found = []
    for length in lengths:
        for old_pass, ways in WAYS.items():
            sized = dataclasses.replace(shape, length=length)
            found += _compared(rounds, sized, old_pass, ways)
    return found


def _compared(rounds: int, shape: Shape, old_pass: bool, ways: Sequence[str]) -> list[dict]:
    """Steps of stock GRPO and of each way, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = {way: _trainer(way, shape, folder, old_pass) for way in ("stock", *ways)}
        memory = {way: megabytes(lambda t=one: _batch(t)) for way, one in trainers.items()}
        times: dict[str, list[float]] = {way: [] for way in trainers}
        said = f"{shape.length} tokens, {'with' if old_pass else 'without'} TRL's pass"
        for turn in track(range(rounds), description=said):
            for way in rotated(list(trainers), turn):
                times[way].append(busy_seconds(lambda way=way: _batch(trainers[way])))
    rows = []
    for way in ways:
        pairs = zip(times[way], times["stock"], strict=True)
        ratio = median([own / stock for own, stock in pairs])
        rows.append(
            {
                "length": shape.length,
                "old_pass": old_pass,
                "way": way,
                "time_ratio": ratio.value,
                "interval": [ratio.low, ratio.high],
                "memory_ratio": memory[way] / memory["stock"],
                "stock_ms": 1e3 * median(times["stock"]).value,
                "pairs": rounds,
            }
        )
    return rows


def _trainer(way: str, shape: Shape, folder: str, old_pass: bool) -> GRPOTrainer:
    settings = {
        "beta": 0.0,
        "per_device_train_batch_size": GROUP * shape.groups // MICRO_BATCHES,
        "steps_per_generation": MICRO_BATCHES,
        "gradient_accumulation_steps": 1 if old_pass else MICRO_BATCHES,
    }
    if way.startswith("stock"):
        trainer = make_trainer(GRPOTrainer, GRPOConfig, shape, folder, **settings)
    else:
        settings |= {
            "method": "probe",
            "probe_text": PROBE,
            "step_ends": shape.length // SEGMENTS,
        }
        trainer = make_trainer(LambdaGRPOTrainer, LambdaGRPOConfig, shape, folder, **settings)
        if way != "in TRL's pass":
            trainer._continuations.shares = False
        if way == "one by one":
            trainer._continuations._packs = False
    _batch(trainer)  # makes the optimiser's state, and decides on the way
    if way == "in TRL's pass" and not trainer._continuations.shares:
        raise RuntimeError("the probes did not go along with TRL's pass, so it cannot be measured")
    return trainer


def _batch(trainer: GRPOTrainer) -> None:
    """Scores a batch and trains on it."""
    for _ in range(MICRO_BATCHES):
        step(trainer, optimize=trainer.args.gradient_accumulation_steps == 1)
    if trainer.args.gradient_accumulation_steps > 1:
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
