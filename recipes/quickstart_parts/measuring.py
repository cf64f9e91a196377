"""Measures a model before a training, along it and after it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from transformers import TrainerCallback


class MeasuringCallback(TrainerCallback, ABC):
    """Calls `measure` before the first step, every few steps, and after the last.

    Args:
        every: steps between two measurements.
    """

    def __init__(self, every: int):
        self.every = every

    @abstractmethod
    def measure(self, model, state) -> None:
        """Measures the model after `state.global_step` steps."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.measure(model, state)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.measure(model, state)
