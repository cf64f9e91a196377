"""When a credit log begins, and what the trainer logs meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from .recorder import CreditRecorder
from .writing import run_description

# Under this name a checkpoint's trainer_state.json has the run id, among the states of callbacks.
STATE = "trl_lambda.credit_log"
# Logs from before the training, as of an evaluation: as many as anyone would look at.
EARLIEST_LOGS = 100


class FollowTraining(TrainerCallback):
    """Begins the credit log when a training begins, and copies the trainer's logs into it.

    A trainer that is built, or only evaluates, leaves the log in its `output_dir` alone; what it
    logged comes first in the log of the training that follows.

    Args:
        recorder: it writes the log.
        method: gives the method's name and, by option, what trains.
    """

    def __init__(self, recorder: CreditRecorder, method: Callable[[], dict[str, Any]]):
        self.recorder = recorder
        self.method = method
        self._earliest: deque[tuple[int, dict]] = deque(maxlen=EARLIEST_LOGS)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run_id = self.recorder.begin(
            run_description(args, self.method()),
            step=state.global_step,
            max_steps=state.max_steps,
            resumes=_run_id(state.stateful_callbacks),
        )
        if run_id is not None:
            state.stateful_callbacks[STATE] = {"args": {}, "attributes": {"run_id": run_id}}
        while self._earliest:
            self.recorder.write_log(*self._earliest.popleft())

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any
    ) -> None:
        if self.recorder.begun:
            self.recorder.write_log(state.global_step, logs or {})
        else:
            self._earliest.append((state.global_step, dict(logs or {})))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.recorder.end()


def _run_id(states: dict[str, Any]) -> str | None:
    """The run id of the training that wrote the checkpoint which is resumed."""
    found = states.get(STATE)
    attributes = found.get("attributes", {}) if isinstance(found, dict) else {}
    return attributes.get("run_id")
