"""The language benchmark's options: which values they take, and which would do nothing."""

from __future__ import annotations

import json

import pytest
from benchmarks.language import __main__ as program
from benchmarks.language import probe_worth, probing, problems, tasks
from language_runs import made_plan


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *(
            ([f"--{name}", value], f"--{name}: {value}: expected a whole number above 0")
            for name in (*program.SIZE_OPTIONS, "workers")
            for value in ("0", "-1", "1.5", "many")
        ),
        *(
            (["--budget_hours", value], f"--budget_hours: {value}: expected a number above 0")
            for value in ("0", "-1", "nan", "inf", "long")
        ),
        *(
            (["--rates", "1e-5", value], f"--rates: {value}: expected a number above 0")
            for value in ("0", "-0.1", "nan", "inf")
        ),
        (["--seeds", "0", "-1"], "--seeds: -1: expected a whole number of 0 or above"),
        (["--tuning_seeds", "x"], "--tuning_seeds: x: expected a whole number of 0 or above"),
    ],
)
def test_a_number_that_means_nothing_is_refused(given, said, capsys):
    with pytest.raises(SystemExit):
        program.parse_arguments(given)
    assert said in capsys.readouterr().err


def test_numbers_that_mean_something_are_taken():
    args = program.parse_arguments(
        ["--held_out", "1", "--budget_hours", "0.01", "--rates", "1e-9", "--seeds", "0"]
    )
    assert (args.held_out, args.budget_hours, args.rates, args.seeds) == (1, 0.01, [1e-9], [0])


def test_more_problems_than_there_are_are_refused():
    task = made_plan().task_itself()
    assert len(tasks.first(task, "held_out", 256)) == problems.PARTS["held_out"]
    with pytest.raises(SystemExit, match=r"257 problems of held_out .* has 256"):
        tasks.first(task, "held_out", 257)


def test_more_problems_than_there_are_are_not_asked_about(tmp_path):
    task = made_plan().task_itself()
    with pytest.raises(SystemExit, match=r"300 problems of held_out .* has 256"):
        probing.ask_all("no model", task, probing.Asking(problems=300), tmp_path)


# --- options that would do nothing ---


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--probe", "--arms", "grpo", "--report"], "leave out --arms, --report"),
        (["--probe", "folder", "--source", "x"], "leave out --source"),
        *(
            (["--probe", f"--{name}", "3"], f"--probe trains no arm: leave out --{name}.")
            for name in (
                *("groups", "completions", "micro_batch", "steps", "measurements"),
                *("checkpoint_every", "workers", "budget_hours"),
            )
        ),
        (["--called", "x"], "give that, too"),
        (["--task", "gsm8k", "--source", "smollm2"], "gsm8k trains Qwen or --model: leave it out"),
        (["--task", "gsm8k", "--probe", "--source", "x"], "gsm8k trains Qwen or --model"),
        (["--model", "m", "--source", "s"], "give one of --model and --source"),
        (["--rates", "1e-5", "--tuning_seeds", "7"], "with one rate there is nothing to choose"),
        (["--task", "gsm8k", "--demonstrations", "answers_at_once"], "gsm8k has none"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(given, said, capsys):
    with pytest.raises(SystemExit):
        program.parse_arguments(given)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [
        ["--probe", "--size", "small", "--held_out", "3", "--samples", "2"],
        ["--probe", "--source", "x", "--demonstrations", "answers_at_once"],
        ["--probe", "folder", "--task", "gsm8k", "--data", "x", "--called", "x"],
        ["--report", "--workers", "2", "--rates", "1e-5", "2e-5", "--tuning_seeds", "7"],
        ["--task", "gsm8k", "--model", "m", "--data", "d"],
    ],
)
def test_options_that_do_something_are_taken(given):
    program.parse_arguments(given)


def test_two_models_of_one_name_have_two_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "ask_all", lambda *given: [])
    monkeypatch.setattr(probe_worth, "entry", lambda model, rows, how: {"model": model})
    monkeypatch.setattr(probe_worth, "markdown", lambda data: "")
    for model in ("a/model", "b/model"):
        program.probe(program.parse_arguments(["--probe", model, "--output_dir", str(tmp_path)]))
    data = json.loads((tmp_path / probe_worth.NAME).read_text())
    assert data == {model: {"model": model} for model in ("a/model", "b/model")}
