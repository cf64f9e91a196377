"""Early warnings: a training that cannot learn says so after a few steps, not after a night."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from ..console import get_logger

logger = get_logger(__name__)


@dataclass(frozen=True)
class Symptom:
    """A metric that tells of a training that learns nothing.

    Attributes:
        metric: Its name in the training log.
        shown_by: Whether a logged value shows it; the mean of a log's steps, None if none is known.
        steps: Optimiser steps in a row before it is worth a warning.
        meaning: Says what has happened. "{reward}" stands for the reward of that log.
        advice: Says what to do.
        unless: A symptom that explains this one, and is told in its place.
        beside: Metrics to tell beside it.
        told_again: Whether it is told once more when it went away and came back.
    """

    metric: str
    shown_by: Callable[[float | None], bool]
    steps: int
    meaning: str
    advice: str
    unless: Symptom | None = None
    beside: Sequence[str] = ()
    told_again: bool = True


def _is_unknown(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _is_whole(value: float | None) -> bool:
    return value is not None and value >= 1.0


NO_REWARD = Symptom(
    metric="reward",
    shown_by=_is_unknown,
    steps=3,
    meaning="every reward function returned None for every completion, so nothing is learnt",
    advice="Look at what they get, with log_completions=True: None stands for 'cannot be judged', "
    "as when math_reward cannot read the gold, and a wrong answer should be 0.",
)
ALL_TRUNCATED = Symptom(
    metric="completions/clipped_ratio",
    shown_by=_is_whole,
    steps=5,
    meaning="no completion came to an end before max_completion_length, at a mean reward of "
    "{reward}; what comes after that length, such as an answer at the end, no reward function sees",
    advice="Raise max_completion_length if the reward is low for that reason; if it is high, the "
    "completions only go on after the answer. In both cases see with log_completions=True whether "
    "the model ends its turns: the prompt's template may be another than the one it knows, or its "
    "end-of-turn token may not be the tokenizer's eos_token.",
)
NO_VARIANCE = Symptom(
    metric="groups/zero_variance",
    shown_by=_is_whole,
    steps=10,
    meaning="in every group all completions got the same reward, so no token gets any credit",
    advice="If the mean reward is at its top the problems are too easy; if at its bottom they are "
    "too hard, or right answers are not recognised (log_completions=True shows them). Take other "
    "problems, raise num_generations or temperature, or add a reward that tells completions apart.",
    unless=NO_REWARD,
    beside=("reward",),
)
SYMPTOMS = (NO_REWARD, ALL_TRUNCATED, NO_VARIANCE)


@dataclass
class _Streak:
    """How long a symptom has shown."""

    last_step: int
    steps: int = 0
    told: bool = False

    def follow(self, shows: bool, step: int, *, told_again: bool) -> None:
        if shows:
            self.steps += step - self.last_step
        else:
            self.steps, self.told = 0, self.told and not told_again
        self.last_step = step


class WarnOfNoLearning(TrainerCallback):
    """Warns in the log, on the main process, of trainings that learn nothing.

    Each symptom is told once, when it has shown in as many steps in a row as it asks for, and again
    only if it went away in between and may be told again. A log that covers several steps counts as
    so many. `LambdaGRPOTrainer` adds it; `trainer.remove_callback(WarnOfNoLearning)` takes it out.

    Args:
        symptoms: The symptoms to watch for.
    """

    def __init__(self, symptoms: Sequence[Symptom] = SYMPTOMS):
        self.symptoms = tuple(symptoms)
        self.streaks: dict[Symptom, _Streak] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forgets earlier trainings; a resumed one starts to count where it resumes."""
        self.streaks = {symptom: _Streak(state.global_step) for symptom in self.symptoms}

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any
    ) -> None:
        """Reads a training log; those of evaluation have other names."""
        for symptom, streak in self.streaks.items():
            if symptom.metric not in (logs or {}):
                continue  # no completions were made since the last log
            shows = symptom.shown_by(logs[symptom.metric])
            streak.follow(shows, state.global_step, told_again=symptom.told_again)
            if streak.steps >= symptom.steps and not streak.told and not _explained(symptom, logs):
                streak.told = True
                if state.is_world_process_zero:
                    logger.warning("%s", _message(symptom, streak, logs))


def _explained(symptom: Symptom, logs: dict) -> bool:
    other = symptom.unless
    return other is not None and other.metric in logs and other.shown_by(logs[other.metric])


def _message(symptom: Symptom, streak: _Streak, logs: dict) -> str:
    beside = "".join(f", {name} {logs.get(name)}" for name in symptom.beside)
    reward = logs.get("reward")
    known = "unknown" if _is_unknown(reward) else f"{reward:.4g}"
    meaning = symptom.meaning.replace("{reward}", known)
    when = f"for {streak.steps} steps in a row, up to step {streak.last_step}"
    if symptom.steps == 1:
        when = f"at step {streak.last_step}"
    return (
        f"{symptom.metric} was {logs[symptom.metric]} {when}{beside}: {meaning}. {symptom.advice}"
    )
