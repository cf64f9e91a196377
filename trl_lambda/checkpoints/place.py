"""Where a run stands: in its data, and in TRL's count of micro-batches.

transformers takes a stream for one endless pass: a run that resumes skips as many batches as it has
trained on, and where the stream is shorter it begins at its top. So passes are counted here.
"""

from __future__ import annotations

from collections.abc import Callable

from transformers import TrainerCallback


class Place(TrainerCallback):
    """Counts what a training has consumed when an update is complete.

    Attributes:
        passes: whole passes over the data.
        updates: optimiser steps in the pass begun.
        micro_batches: TRL's counter, which a checkpoint amid an update finds further on.
        carried: micro-batches at the end of a stream's pass that made no whole update: their
            gradient waits for the next pass.
    """

    def __init__(self, begin: Callable[[], None], micro_batches: Callable[[], int]):
        """
        Args:
            begin: called when a training begins, resumed or not.
            micro_batches: returns TRL's counter.
        """
        self._begin, self._micro_batches = begin, micro_batches
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

    def on_step_end(self, args, state, control, **kwargs):
        self.updates += 1
        self.micro_batches, self.carried = self._micro_batches(), 0

    def on_epoch_end(self, args, state, control, **kwargs):
        if not control.should_training_stop:  # then the pass may have data left
            self.passes, self.updates = self.passes + 1, 0
            self.carried = self._micro_batches() - self.micro_batches
            self.micro_batches += self.carried
