"""Tiny runs that are stopped and go on, and what must be equal then."""

from __future__ import annotations

import tiny
import torch
from transformers import TrainerCallback

WINDOW = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_steps": 6,
    "save_strategy": "steps",
    "save_steps": 1,
}


class AtStepEnd(TrainerCallback):
    """Calls a function at the end of each step."""

    def __init__(self, call):
        self._call = call

    def on_step_end(self, args, state, control, **kwargs):
        self._call()


def build(output_dir, settings=None, **options):
    return tiny.trainer(output_dir, settings={**WINDOW, **(settings or {})}, **options)


def run(output_dir, settings=None, *, checkpoint=None, **options):
    """A trainer after its training, resumed from `checkpoint` (a folder, True) if there is one."""
    trainer = build(output_dir, settings, **options)
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def losses(trainer) -> list[dict]:
    """What was logged of each step, but for times."""
    return [
        {k: v for k, v in entry.items() if not any(word in k for word in tiny.TIMINGS)}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def assert_same_end(one, other):
    """To the bit: all logs of all steps, and the parameters."""
    assert losses(one) == losses(other)
    assert torch.equal(tiny.parameters(one), tiny.parameters(other))
