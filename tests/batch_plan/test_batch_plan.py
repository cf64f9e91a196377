"""The batch plan: its numbers are TRL's, and the settings it offers are ones that TRL takes."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import pytest
import tiny
from datasets import Dataset, IterableDataset
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.utils import logging
from trl import GRPOConfig

from trl_lambda import LambdaGRPOConfig
from trl_lambda.batch_plan.plan import plan_batches
from trl_lambda.batch_plan.sizes import MAX_FACTOR, BatchSizes, batch_fault

SMALL = BatchSizes(
    per_device_train_batch_size=8,
    gradient_accumulation_steps=8,
    num_generations=8,
    max_completion_length=512,
)


def prompts(count: int) -> Dataset:
    return Dataset.from_list([{"prompt": f"{i % 10}+1="} for i in range(count)])


# Numbers.


def test_a_plan_worked_by_hand():
    plan = plan_batches(replace(SMALL, num_prompts=7473))
    assert str(plan) == (
        "Batch plan\n"
        "  generation batch  64 completions = 8 prompts × 8, used for 1 optimiser step\n"
        "  groups            each on one process\n"
        "  micro-batch       8 completions a device, at most 4,096 completion tokens\n"
        "  optimiser step    64 completions = 8 prompts, at most 32,768 completion tokens\n"
        "  training          934 optimiser steps = 1 epoch of 7,473 prompts, 1 left out of each: "
        "no whole generation batch"
    )


def test_a_plan_with_everything_on():
    plan = plan_batches(
        BatchSizes(
            per_device_train_batch_size=6,
            gradient_accumulation_steps=4,
            steps_per_generation=6,
            num_generations=8,
            num_iterations=2,
            num_processes=4,
            max_completion_length=100,
            max_steps=500,
            num_prompts=1000,
            per_device_eval_batch_size=8,
            num_generations_eval=4,
            num_eval_prompts=9,
        )
    )
    assert str(plan) == (
        "Batch plan\n"
        "  generation batch  144 completions = 18 prompts × 8 (36 on each of 4 processes), used "
        "for 3 optimiser steps\n"
        "  groups            2 of 18 straddle processes: token ids are gathered once a generation "
        "batch\n"
        "  micro-batch       6 completions a device, at most 600 completion tokens\n"
        "  optimiser step    96 completions = 12 prompts, at most 9,600 completion tokens\n"
        "  training          500 optimiser steps = 3.03 epochs of 1,000 prompts, 10 left out of "
        "each: no whole generation batch\n"
        "  evaluation        32 completions a batch = 8 prompts × 4, 9 prompts in 2 batches"
    )


def test_a_group_on_three_processes_straddles_once():
    plan = plan_batches(replace(SMALL, per_device_train_batch_size=2, num_processes=4))
    assert (plan.prompts, plan.straddling_groups) == (8, 0)  # 16 completions on each
    sizes = replace(SMALL, per_device_train_batch_size=2, gradient_accumulation_steps=1)
    assert plan_batches(replace(sizes, num_processes=4)).straddling_groups == 1


def test_a_step_may_take_part_of_a_group():
    plan = plan_batches(replace(SMALL, gradient_accumulation_steps=1, steps_per_generation=2))
    assert (plan.step_prompts, plan.steps_per_batch) == (1.0, 2.0)
    plan = plan_batches(replace(SMALL, num_generations=16, steps_per_generation=2))
    assert (plan.step_prompts, plan.steps_per_batch) == (4.0, 0.25)
    assert "used for 0.25 optimiser steps" in str(plan)


def test_unknown_lengths():
    plan = plan_batches(replace(SMALL, max_steps=5, max_completion_length=None))
    assert "5 optimiser steps over a stream" in str(plan)
    assert "tokens" not in str(plan)
    assert plan_batches(SMALL).total_steps is None


@given(
    rows=st.integers(1, 9), processes=st.integers(1, 6), group=st.integers(2, 12), data=st.data()
)
def test_straddling_groups_are_those_cut_by_a_process(rows, processes, group, data):
    sizes = replace(
        SMALL,
        per_device_train_batch_size=rows,
        num_processes=processes,
        num_generations=group,
        gradient_accumulation_steps=data.draw(st.integers(1, 6)),
    )
    assume(batch_fault(sizes) is None)
    plan = plan_batches(sizes)
    owners = [i // plan.completions_per_device for i in range(plan.completions)]
    groups = [set(owners[i : i + group]) for i in range(0, plan.completions, group)]
    assert plan.straddling_groups == sum(len(group_owners) > 1 for group_owners in groups)
    assert len(groups) == plan.prompts


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 3, "num_train_epochs": 2},
        {"steps_per_generation": 2, "gradient_accumulation_steps": 1, "num_iterations": 2},
        {"steps_per_generation": 2, "gradient_accumulation_steps": 3, "num_iterations": 2},
        {"generation_batch_size": 24, "gradient_accumulation_steps": 2},
        {"num_train_epochs": 1.5},
        {"steps_per_generation": 1, "gradient_accumulation_steps": 4},
        {"max_steps": 4},
    ],
    ids=str,
)
def test_steps_and_prompts_are_those_of_the_training(tmp_path, settings):
    """Counted where they happen: optimiser steps, generation batches and their prompts."""
    settings = {"max_steps": -1, "num_train_epochs": 1, "max_completion_length": 2} | settings
    trainer = tiny.trainer(tmp_path, settings=settings, train_dataset=prompts(13))
    generated = []
    generate = trainer._generate_and_score_completions

    def counted(inputs):
        generated.append(len(inputs))
        return generate(inputs)

    trainer._generate_and_score_completions = counted
    plan = trainer._batch_plan()
    trainer.train()
    assert trainer.state.global_step == plan.total_steps
    assert set(generated) == {plan.completions_per_device}
    if settings["max_steps"] < 0 and settings["num_train_epochs"] == 1:
        assert len(generated) == plan.batches_per_epoch
        assert plan.batches_per_epoch * plan.prompts + plan.prompts_left_out == 13


# Sizes that do not fit.

FAULTY = [
    {"num_generations": 6},
    {"num_generations": 7, "gradient_accumulation_steps": 3, "per_device_train_batch_size": 4},
    {"num_generations": 5, "steps_per_generation": 2},
    {"generation_batch_size": 20},
    {"generation_batch_size": 24, "num_generations": 7},
    {"per_device_train_batch_size": 1, "num_generations": 64},
    {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 6},
    {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "per_device_eval_batch_size": 6,
        "num_generations_eval": 4,
    },
]


def offered(message: str) -> dict[str, list[int]]:
    """The settings of a message, by name."""
    lines = re.findall(r"^  (\w+)[^:]*: (.*)$", message, re.MULTILINE)
    return {name: [int(n) for n in re.findall(r"(\d+) \(", options)] for name, options in lines}


@pytest.mark.parametrize("settings", FAULTY, ids=str)
def test_trl_takes_what_is_offered_and_nothing_nearer(tmp_path, settings):
    base = {"gradient_accumulation_steps": 1} | settings
    with pytest.raises(ValueError, match=r"must be divisible|could not"):
        tiny.config(GRPOConfig, tmp_path, **base)
    with pytest.raises(ValueError, match="Nearest settings that fit, one change each") as caught:
        tiny.config(LambdaGRPOConfig, tmp_path, **base)
    assert caught.value.__suppress_context__  # not TRL's message as well
    options = offered(str(caught.value))
    options.pop("processes", None)
    assert options
    for name, values in options.items():
        start = base.get(name, {"per_device_train_batch_size": 8, "num_generations": 4}.get(name))
        start = base.get("num_generations", 4) if start is None else start
        lowest, highest = min(values[0], start), max(values[-1], start)
        for value in range(lowest, highest + 1):
            if value in values:
                tiny.config(LambdaGRPOConfig, tmp_path, **(base | {name: value}))
            elif value >= 2 or name != "num_generations":
                with pytest.raises(ValueError, match=r"divi|left over|expected"):
                    tiny.config(LambdaGRPOConfig, tmp_path, **(base | {name: value}))


@given(
    rows=st.integers(1, 12),
    processes=st.integers(1, 8),
    steps=st.integers(1, 6),
    group=st.integers(2, 16),
    count=st.integers(1, 40),
)
def test_every_setting_offered_fits(rows, processes, steps, group, count):
    """Also where the data set is too small, and on any number of processes."""
    sizes = replace(
        SMALL,
        per_device_train_batch_size=rows,
        num_processes=processes,
        gradient_accumulation_steps=steps,
        num_generations=group,
        num_prompts=count,
    )
    message = batch_fault(sizes)
    assume(message)
    divides = "do not divide" in message
    for name, values in offered(message).items():
        name = {"processes": "num_processes"}.get(name, name)
        for value in values:
            fault = batch_fault(replace(sizes, **{name: value}))
            # What it does not mend is another fault, and was there before.
            assert fault is None or (divides and "the data set has" in fault)
            assert value <= max(MAX_FACTOR * getattr(sizes, name), group)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_generations": 1}, "num_generations is 1, expected at least 2"),
        ({"num_generations": 0}, "num_generations is 0, expected at least 2"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0"),
    ],
)
def test_sizes_too_small_by_themselves(tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        tiny.config(LambdaGRPOConfig, tmp_path, **settings)


def test_errors_of_other_settings_stay_theirs(tmp_path):
    with pytest.raises(ValueError, match="both configured"):
        tiny.config(LambdaGRPOConfig, tmp_path, steps_per_generation=3, generation_batch_size=9)
    with pytest.raises(ValueError, match="auto_find_batch_size"):
        tiny.config(LambdaGRPOConfig, tmp_path, auto_find_batch_size=True)
    with pytest.raises(ValueError, match="nowhere"):
        tiny.config(LambdaGRPOConfig, tmp_path, eval_strategy="nowhere", num_generations=3)


def test_too_few_prompts_are_refused_before_training(tmp_path):
    """TRL would say nothing and train zero steps."""
    settings = {"gradient_accumulation_steps": 3}
    trainer = tiny.trainer(tmp_path, settings=settings, train_dataset=prompts(5))
    with pytest.raises(ValueError, match="takes 6 different prompts, and the data set has 5") as e:
        trainer.train()
    assert offered(str(e.value)) == {
        "num_generations": [6],
        "per_device_train_batch_size": [4],
        "gradient_accumulation_steps": [2],
    }
    assert trainer.state.global_step == 0


# What users see.


def test_it_is_printed_once_when_training_begins(tmp_path, capsys):
    trainer = tiny.trainer(tmp_path, settings={"max_steps": 1})
    assert "Batch plan" not in capsys.readouterr().out
    trainer.train()
    out = capsys.readouterr().out
    assert out.startswith(f"{trainer._batch_plan()}\n")
    assert out.count("Batch plan") == 1


def test_log_level_error_silences_it(tmp_path, capsys, request):
    # The trainer sets it for the whole process.
    request.addfinalizer(partial(logging.set_verbosity, logging.get_verbosity()))
    tiny.trainer(tmp_path, settings={"max_steps": 1, "log_level": "error"}).train()
    assert "Batch plan" not in capsys.readouterr().out


def test_evaluation_sets_and_streams(tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 2}
    trainer = tiny.trainer(
        tmp_path, settings=settings, eval_dataset={"a": prompts(3), "b": prompts(6)}
    )
    assert "8 completions a batch = 4 prompts × 2, 9 prompts in 3 batches" in str(
        trainer._batch_plan()
    )
    stream = IterableDataset.from_generator(lambda: iter([{"prompt": "1+1="}] * 8))
    trainer = tiny.trainer(tmp_path, train_dataset=stream)
    assert "3 optimiser steps over a stream" in str(trainer._batch_plan())
