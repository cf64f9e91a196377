"""The language benchmark's options: which values they take, and which would do nothing."""

from __future__ import annotations

import pytest
from benchmarks.language import __main__ as program
from benchmarks.language import probing, problems, tasks
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
