"""What the learning benchmark does with files that a kill tore and with workers that fail."""

from __future__ import annotations

import argparse
import time

import pytest
from benchmarks.learning import __main__ as main_module
from benchmarks.learning import plan as plans
from benchmarks.learning import runs as runs_module
from benchmarks.learning.runs import Store, append_line, key, read_lines
from benchmarks.learning.tasks import TASKS
from benchmarks.learning.training import Run

RUN = Run("first", "Dr. GRPO", 1e-3, 0, 5)


@pytest.mark.parametrize("cut", [*range(1, 12), 16], ids=lambda cut: f"{cut} bytes short")
def test_a_line_that_was_cut_anywhere_is_skipped(cut, tmp_path, capsys):
    """Also within the two bytes of `λ`."""
    path = tmp_path / "runs.jsonl"
    append_line(path, {"key": "a", "method": "GRPO"})
    append_line(path, {"key": "b", "method": "GRPO-λ"})
    path.write_bytes(path.read_bytes()[: -1 - cut])
    assert read_lines(path) == [{"key": "a", "method": "GRPO"}]
    assert "cut off" in capsys.readouterr().out
    append_line(path, {"key": "c"})
    assert [line["key"] for line in read_lines(path)] == ["a", "c"]


@pytest.mark.parametrize(
    "mark", ["\x85", "\u2028", "\u2029", "\x1c", "\r", "\n", "\udc80"], ids=ascii
)
def test_a_line_ends_at_a_newline_and_nowhere_else(mark, tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    record = {"key": "a", "error": f"ValueError: one{mark}two"}
    append_line(path, record)
    assert read_lines(path) == [record]
    assert capsys.readouterr().out == ""


class Worker:
    """Stands in for a process; one seed ends it with an exception that is no crash of a run."""

    def submit(self, function, run, key, work):
        self.run = run
        return self

    def result(self):
        if self.run.seed == 1:
            raise SystemExit("DIR has no training.jsonl")
        return {"key": key(self.run), **vars(self.run), "curve": [[0, 0, 0.1, 0.5]]}

    def shutdown(self):
        pass


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_says_to_end_ends_the_benchmark(workers, monkeypatch, tmp_path):
    """What it says comes out, what was finished is kept, and no further run is begun."""
    monkeypatch.setattr(runs_module, "new_worker", Worker)
    store = Store(tmp_path / "runs.jsonl")
    runs = [Run("first", "Dr. GRPO", 1e-3, seed, 5) for seed in range(30)]
    settings = {"workers": workers, "deadline": time.monotonic() + 60, "name": "x"}
    with pytest.raises(SystemExit, match="DIR has no training"):
        runs_module.perform_all(runs, store, dict, **settings)
    assert store.finished(runs[0])
    assert store.any(runs[1]) is None
    assert workers > 1 or len(Store(store.path).records) == 1


def told_to_end(run: Run) -> dict:
    raise SystemExit(f"no seed {run.seed}")


@pytest.mark.slow
def test_a_real_worker_that_says_to_end_ends_the_benchmark(tmp_path):
    store = Store(tmp_path / "runs.jsonl")
    settings = {"workers": 1, "deadline": time.monotonic() + 600, "name": "x"}
    with pytest.raises(SystemExit, match="no seed 0"):
        runs_module.perform_all([RUN], store, told_to_end, **settings)
    assert not store.records


def start(plan: plans.Plan, store: Store, fails, monkeypatch, hours: float = 1.0) -> list[Run]:
    """What one start of the benchmark trains; `fails(run)` says which runs crash."""
    trained = []

    def run_all(runs, store, folder, *, workers, deadline, name):
        for run in dict.fromkeys(runs):
            if store.finished(run) is None:
                trained.append(run)
                found = {"error": "died"} if fails(run) else {"curve": [[0, 0, 0, 0], [5, 9, 1, 1]]}
                store.add({"key": key(run), **vars(run)} | found)
        return []

    monkeypatch.setattr(runs_module, "run_all", run_all)
    args = argparse.Namespace(output_dir=store.path.parent, workers=1, budget_hours=hours)
    assert main_module.run_plan(args, plan, store)
    return trained


def test_runs_that_failed_are_tried_once_at_each_start(monkeypatch, tmp_path):
    """Also those that choose rates, when all others are there; never twice in one start."""
    plan = plans.Plan(methods=("GRPO",), tasks=("first",), tuning_seeds=(1000,), seeds=(0, 1))
    store = Store(tmp_path / "runs.jsonl")
    low, middle, _ = TASKS["first"].learning_rates

    def fails(run):  # the middle rate and one of the last seeds, whatever its rate
        return run.learning_rate == middle or run.seed == 1

    first = start(plan, store, fails, monkeypatch)
    assert len(first) == len(set(first))
    assert plans.chosen_rates(plan, store.any)["first", "GRPO"] < low
    again = start(plan, store, fails, monkeypatch)
    assert {(run.learning_rate, run.seed) for run in again} == {
        (middle, 1000),
        (plans.chosen_rates(plan, store.any)["first", "GRPO"], 1),
    }
    assert len(again) == len(set(again))
    # When it does not fail any more, it is what chooses.
    start(plan, store, lambda run: False, monkeypatch)
    assert plans.scores(plan, store.any, "first", "GRPO", [middle]) == {middle: 1.0}
    assert start(plan, store, lambda run: True, monkeypatch) == []
