"""Run by `accelerate launch`: the collectives of a generated batch and of a loss, ours and stock's.

    collectives.py FOLDER

Each process writes FOLDER/<case>.<rank>.json: {"batch": [[name, numbers sent], …], "loss": […]}.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import on_cpu
import straddle
import tiny
import torch
from accelerate import PartialState
from trl import GRPOTrainer

NAMES = ("all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "broadcast")
ALL_ON = {"trace_mode": "ratio", "trace_style": "both", "beta": 0.04}
CASES = {
    "stock": {"beta": 0.04},
    "straddling": ALL_ON,
    "whole": ALL_ON | {"num_generations": 6},  # six rows a process: a group each
    "tree": {"td_error": "tree", "beta": 0.04},
    "recorded": {"td_error": "tree", "beta": 0.04, "credit_log_steps": 1},
    "process": {"td_error": "process", "beta": 0.04},
    "traces_alone": {"process_set_weighting": False},
    "default": tiny.DEFAULT | {"beta": 0.04},
    "probe": straddle.PROBE | {"beta": 0.04, "answer_column": "gold"},
    "probe_shared": straddle.PROBE | {"beta": 0.04, "answer_column": "gold", "num_iterations": 2},
}


class Collectives:
    """Writes down the calls of torch.distributed, without those that they make themselves."""

    def __init__(self):
        self.calls: list[list] = []
        self.inside = False
        for name in NAMES:
            setattr(torch.distributed, name, self.watched(name, getattr(torch.distributed, name)))

    def watched(self, name, function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            if self.inside:
                return function(*args, **kwargs)
            tensors = [part for part in args if isinstance(part, torch.Tensor)]
            self.calls.append([name, min((part.numel() for part in tensors), default=0)])
            self.inside = True
            try:
                return function(*args, **kwargs)
            finally:
                self.inside = False

        return call

    def of(self, function, *args):
        """(the collectives of a call, what it returned)."""
        self.calls = []
        result = function(*args)
        return self.calls, result


def run(case: str, folder: Path, collectives: Collectives) -> None:
    state = PartialState()
    stock = case == "stock"
    rows = straddle.ROWS // state.num_processes
    settings = {"per_device_train_batch_size": rows, "num_generations": straddle.GROUP}
    trainer = tiny.trainer(
        folder / case,
        GRPOTrainer if stock else tiny.LambdaGRPOTrainer,
        reward_funcs=straddle.reward,
        rollout_func=straddle.rollout_of(case),
        settings=settings | CASES[case],
        **({"process_reward_funcs": straddle.steps} if case == "process" else {}),
    )
    trainer.model.train()
    batch, output = collectives.of(
        trainer._generate_and_score_completions, [{"prompt": "1+1=", "gold": "2"}] * rows
    )
    trainer.current_gradient_accumulation_steps = 1
    loss, _ = collectives.of(trainer.compute_loss, trainer.model, output)
    path = folder / f"{case}.{state.process_index}.json"
    path.write_text(json.dumps({"batch": batch, "loss": loss}))


if __name__ == "__main__":
    on_cpu.process_state()
    watched = Collectives()
    with on_cpu.leaving_together():
        for name in CASES:
            run(name, Path(sys.argv[1]), watched)
