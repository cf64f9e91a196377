"""Warnings of trainings that learn nothing: each from a real one, and none from a healthy one."""

from __future__ import annotations

import logging

import pytest
import tiny
from transformers import TrainerControl, TrainerState

from trl_lambda.health.no_learning import (
    ALL_TRUNCATED,
    NO_REWARD,
    NO_VARIANCE,
    SYMPTOMS,
    Symptom,
    WarnOfNoLearning,
)

ENDED = [[5, 6, tiny.EOS], [7, tiny.EOS], [8, 9, 5, tiny.EOS], [6, tiny.EOS]]
CUT_OFF = [[5] * 8, [6] * 8, [7] * 8, [8] * 8]


@pytest.fixture
def warned(caplog):
    """The warnings so far, in order."""
    caplog.set_level(logging.WARNING, logger="trl_lambda.callbacks")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "trl_lambda.callbacks"]


def varied(completions, **columns):
    return [float(i % 2) for i in range(len(completions))]


def alike(completions, **columns):
    return [0.0] * len(completions)


def unknown(completions, **columns):
    return [None] * len(completions)


def run(tmp_path, reward, *, completions=ENDED, steps=12, settings=None, **kw):
    settings = {"max_steps": steps, **(settings or {})}
    trainer = tiny.trainer(
        tmp_path,
        reward_funcs=reward,
        rollout_func=tiny.scripted(completions),
        settings=settings,
        **kw,
    )
    trainer.train()
    return trainer


def test_a_healthy_training_is_silent(tmp_path, warned):
    run(tmp_path, varied, steps=25)
    assert warned() == []


def test_groups_without_variance(tmp_path, warned):
    run(tmp_path, alike, steps=25)
    (warning,) = warned()
    assert warning.startswith("groups/zero_variance was 1.0 for 10 steps in a row, up to step 10")
    assert "reward 0.0: in every group all completions got the same reward" in warning
    assert "num_generations" in warning


def test_completions_that_never_end(tmp_path, warned):
    run(tmp_path, varied, completions=CUT_OFF)
    (warning,) = warned()
    assert warning.startswith(
        "completions/clipped_ratio was 1.0 for 5 steps in a row, up to step 5: no completion came"
    )
    assert "Raise max_completion_length" in warning


def test_rewards_that_are_never_known(tmp_path, warned):
    """One warning, not two: groups without a known reward have no variance either."""
    run(tmp_path, unknown, steps=25)
    (warning,) = warned()
    assert warning.startswith("reward was None for 3 steps in a row, up to step 3")
    assert "every reward function returned None" in warning


def test_one_reward_of_two_is_enough(tmp_path, warned):
    run(tmp_path, [unknown, varied])
    assert warned() == []


def test_a_log_of_many_steps_counts_as_many(tmp_path, warned):
    run(tmp_path, alike, settings={"logging_steps": 12})
    assert [w.split(":")[0] for w in warned()] == [
        "groups/zero_variance was 1.0 for 12 steps in a row, up to step 12, reward 0.0"
    ]


def test_a_log_in_which_some_step_was_healthy_is_silent(tmp_path, warned):
    calls = iter(range(1000))

    def once(completions, **columns):
        return (varied if next(calls) == 5 else alike)(completions)

    run(tmp_path, once, settings={"logging_steps": 12})
    assert warned() == []


def test_steps_that_reuse_completions_count(tmp_path, warned):
    """Two optimiser steps a generation batch, of which only one logs its rewards."""
    run(tmp_path, alike, settings={"num_iterations": 2})
    (warning,) = warned()
    assert "for 11 steps in a row, up to step 11" in warning  # step 10 logs no rewards


def test_step_rewards_teach_without_outcome_rewards(tmp_path, warned):
    def steps(completion_ids, **columns):
        return [[(len(ids) - 1, float(i % 2))] for i, ids in enumerate(completion_ids)]

    settings = {"td_error": "process", "trace_style": "none"}
    run(tmp_path, alike, settings=settings, process_reward_funcs=steps)
    run(tmp_path, unknown, settings=settings, process_reward_funcs=steps)
    assert warned() == []


def test_it_can_be_taken_out_or_replaced(tmp_path, warned):
    trainer = tiny.trainer(tmp_path, reward_funcs=alike, settings={"max_steps": 12})
    trainer.remove_callback(WarnOfNoLearning)
    trainer.train()
    assert not any("zero_variance" in warning for warning in warned())
    own = WarnOfNoLearning([Symptom("reward", lambda value: value == 0, 2, "nothing", "Do.")])
    run(tmp_path, alike, callbacks=[own])
    assert warned()[-1] == "reward was 0.0 for 2 steps in a row, up to step 2: nothing. Do."


# Once, and again after a recovery.


def logged(callback: WarnOfNoLearning, values: list, *, metric: str, first: int = 1) -> None:
    for step, value in enumerate(values, first):
        state = TrainerState(global_step=step)
        callback.on_log(None, state, TrainerControl(), logs={metric: value})


def begun(step: int = 0) -> WarnOfNoLearning:
    callback = WarnOfNoLearning(SYMPTOMS)
    callback.on_train_begin(None, TrainerState(global_step=step), TrainerControl())
    return callback


@pytest.mark.parametrize(
    ("symptom", "bad", "good"),
    [(NO_REWARD, None, 0.5), (ALL_TRUNCATED, 1.0, 0.99), (NO_VARIANCE, 1.0, 0.99)],
)
def test_it_warns_once_and_again_after_a_recovery(warned, symptom, bad, good):
    callback, long = begun(), symptom.steps
    values = [*[bad] * (long - 1), good, *[bad] * (3 * long), good, *[bad] * long]
    logged(callback, values, metric=symptom.metric)
    told = [int(w.split("up to step ")[1].split(":")[0].split(",")[0]) for w in warned()]
    assert told == [2 * long, 5 * long + 1]


def test_a_resumed_training_counts_from_where_it_resumes(warned):
    logged(begun(step=100), [1.0] * 4, metric=ALL_TRUNCATED.metric, first=101)
    assert warned() == []


def test_evaluation_and_other_logs_are_not_read(warned):
    callback = begun()
    for metric in ("eval_reward", "eval_groups/zero_variance", "loss"):
        logged(callback, [None] * 30, metric=metric)
    assert warned() == []
