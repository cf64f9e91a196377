"""A training step with an answer probe against stock GRPO: packed, and a prefix at a time.

Eight segments a completion, probes of twelve tokens with golds of four. Sampling is no part of it.
"""

from __future__ import annotations

import tempfile

from rich.progress import track
from trl import GRPOConfig, GRPOTrainer

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer

from .measuring import Median, median, seconds
from .step import Shape, make_trainer, pairs, peak_megabytes, rotated, row, step

SEGMENTS = 8
PROBE = " ".join(str(number) for number in range(20, 32)) + " "


def probed_step(rounds: int, shape: Shape) -> list[dict]:
    """Steps of stock GRPO, stock again, and the probe in its two ways, in turn."""
    options = {"method": "probe", "probe_text": PROBE, "step_ends": shape.length // SEGMENTS}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            "stock": make_trainer(GRPOTrainer, GRPOConfig, shape, folder),
            "control": make_trainer(GRPOTrainer, GRPOConfig, shape, folder),
            "packed": make_trainer(LambdaGRPOTrainer, LambdaGRPOConfig, shape, folder, **options),
            "one by one": make_trainer(
                LambdaGRPOTrainer, LambdaGRPOConfig, shape, folder, **options
            ),
        }
        for name in ("packed", "one by one"):
            step(trainers[name])  # decides on the way
            trainers[name]._continuations._packs = name == "packed"
        memory = {name: peak_megabytes(trainer) for name, trainer in trainers.items()}
        times: dict[str, list[float]] = {name: [] for name in trainers}
        for turn in track(range(rounds), description="steps with a probe"):
            for name in rotated(list(trainers), turn):
                times[name].append(seconds(lambda name=name: step(trainers[name])))
    others = [name for name in trainers if name != "stock"]
    longer = [row(f"time of a step, {name} / stock", pairs(times, name)) for name in others]
    more = {name: 100 * (memory[name] / memory["stock"] - 1) for name in others}
    return [
        row("a stock step, milliseconds", median([1e3 * time for time in times["stock"]])),
        *longer,
        *(row(f"peak memory, {name} / stock", Median(*[more[name]] * 3)) for name in others),
    ]
