"""Where a run stands: in its data, and in TRL's count of micro-batches.

transformers takes a stream for one endless pass: a run that resumes skips as many batches as it has
trained on, and where the stream is shorter it begins at its top. So passes are counted here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class Place(TrainerCallback):
    """Counts what a training has consumed when an update is complete.

    Attributes:
        passes: whole passes over the data.
        updates: optimiser steps in the pass begun.
        micro_batches: TRL's counter, which a checkpoint amid an update finds further on.
        carried: micro-batches at the end of a stream's pass that made no whole update: their
            gradient waits for the next pass.
        credit_state: the state that the method kept from batch to batch by then.
    """

    def __init__(
        self,
        begin: Callable[[], None],
        micro_batches: Callable[[], int],
        credit_state: Callable[[], dict[str, Any]],
    ):
        """
        Args:
            begin: called when a training begins, resumed or not.
            micro_batches: returns TRL's counter.
            credit_state: returns what the method keeps from batch to batch.
        """
        self._begin, self._micro_batches, self._credit_state = begin, micro_batches, credit_state
        self.credit_state: dict[str, Any] = {}
        self.passes = self.updates = self.micro_batches = self.carried = 0
        self._start: tuple[int, int] | None = None

    def start_at(self, passes: int, updates: int) -> None:
        """Where the training that is about to begin does so."""
        self._start = (passes, updates)

    def on_train_begin(self, args, state, control, **kwargs):
        self._begin()
        self.passes, self.updates = self._start or (0, state.global_step)
        self._start = None
        self.micro_batches, self.carried = self._micro_batches(), 0
        self.credit_state = self._credit_state()

    def on_step_end(self, args, state, control, **kwargs):
        self.updates += 1
        self.micro_batches, self.carried = self._micro_batches(), 0
        self.credit_state = self._credit_state()

    def on_epoch_end(self, args, state, control, **kwargs):
        if not control.should_training_stop:  # then the pass may have data left
            self.passes, self.updates = self.passes + 1, 0
            self.carried = self._micro_batches() - self.micro_batches
            self.micro_batches += self.carried
            self.credit_state = self._credit_state()
