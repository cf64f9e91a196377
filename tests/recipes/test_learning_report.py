"""The report where runs failed, are missing, or belong to another plan."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks import front_page
from benchmarks.learning import plan as plans
from benchmarks.learning import table
from benchmarks.learning.figure import failures
from benchmarks.learning.plan import Plan
from benchmarks.learning.report import faults, json_text, learning, read_results, write_report
from benchmarks.learning.runs import Store, key
from benchmarks.learning.tasks import TASKS
from benchmarks.learning.training import Run

RESULTS = Path(__file__).parents[2] / "recipes" / "benchmarks" / "results"
PLAN = Plan(
    methods=("GRPO", "DAPO", "branch"),
    tasks=("first", "chain"),
    tuning_seeds=(1000,),
    seeds=(0, 1, 2),
    rates=2,
)


def add(store: Store, run: Run, *, failed: bool = False) -> None:
    curve = [[0, 0, 0.1, 0.5], [run.generations, 1000, 0.6 + 0.01 * (run.seed % 3), 0.9]]
    length = [float(TASKS[run.task].tokens)]
    told = {"curve": curve, "format": [1.0], "length": length, "cpu_seconds": 36.0}
    found = {"error": "ValueError: no"} if failed else told
    store.add({"key": key(run), **vars(run)} | found)


def store_of(folder, failing=lambda run: False, plan: Plan = PLAN) -> Store:
    """All runs of the plan; final ones that are failing crashed."""
    store = Store(folder / "runs.jsonl")
    while new := [run for run in plans.tuning(plan, store.any) if store.any(run) is None]:
        for run in new:
            add(store, run)
    for run in plans.final(plan, plans.chosen_rates(plan, store.any)):
        add(store, run, failed=failing(run))
    return store


FAILING = {
    "a method on a task": lambda run: (run.method, run.task) == ("DAPO", "first"),
    "a method": lambda run: run.method == "DAPO",
    "the reference on a task": lambda run: (run.method, run.task) == ("GRPO", "first"),
    "the reference": lambda run: run.method == "GRPO",
    "a task": lambda run: run.task == "first",
    "all": lambda run: True,
}


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
def test_runs_that_all_failed_count_as_never_right_and_the_others_are_reported(failing, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"{table.MARK}\n{table.MARK}\n")
    write_report(PLAN, store_of(tmp_path, failing), results=tmp_path, readme=readme)
    data = json.loads((tmp_path / "learning.json").read_text())
    assert data["missing"] == []
    for name, entry in data["results"].items():
        method, task = name.split(" | ")
        if failing(PLAN.run(task, method, 1.0, 0)):
            assert (entry["final"], entry["collapsed"]) == (0, 3)
            assert entry["generated_tokens"] is entry["seconds"] is None
            assert data["curves"][name] == {"steps": [], "tokens": [], "accuracy": []}
        else:
            assert entry["final"] > 0.5
    row = next(line for line in readme.read_text().splitlines() if line.startswith("| DAPO | 4.9"))
    assert ("| 3 (3 failed) |" in row) == failing(PLAN.run("first", "DAPO", 1.0, 0))
    assert "None" not in readme.read_text()


def test_a_task_on_which_the_reference_failed_measures_nothing(tmp_path):
    data = learning(PLAN, store_of(tmp_path, FAILING["the reference on a task"]))
    assert data["tasks"]["first"]["faults"] == ["all 3 runs of GRPO failed"]
    assert data["overall"]["DAPO"]["mean"] == data["results"]["DAPO | chain"]["final"]


def test_a_task_without_runs_of_the_reference_has_no_fault():
    assert faults("first", []) == []


def test_the_picture_says_which_runs_failed(tmp_path):
    store = store_of(tmp_path, lambda run: (run.method, run.seed) == ("DAPO", 1))
    add(store, PLAN.run("first", "branch", 4.9e-4, 0), failed=True)
    data = learning(PLAN, store)
    assert failures(data, "first", ["GRPO", "branch"]) == "1 run failed: branch 1 of 3"
    shown = failures(data, "first", ["DAPO", "branch"])
    assert shown == "2 runs failed: DAPO 1 of 3, branch 1 of 3"
    assert failures(data, "chain", ["GRPO", "branch"]) == ""


def test_the_front_page_has_runs_that_all_failed(tmp_path):
    names = tuple(front_page.ROWS)
    plan = Plan(methods=names, tasks=("first",), tuning_seeds=(1000,), seeds=(0, 1), rates=1)
    for failing in ("branch", "GRPO"):
        store = store_of(tmp_path / failing, lambda run, name=failing: run.method == name, plan)
        data = learning(plan, store)
        assert "–" in front_page.table(data)
        front_page.figure(data, tmp_path / "front.png")


def test_the_front_page_is_not_made_from_a_part(tmp_path, monkeypatch):
    plan = dataclasses.replace(PLAN, methods=("GRPO", "DAPO", "λ-GRPO"))
    write_report(plan, store_of(tmp_path), results=tmp_path, readme=None)
    monkeypatch.setattr("sys.argv", ["front_page.py", "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match="not done yet are λ-GRPO on first, λ-GRPO on chain"):
        front_page.main()
    assert not (tmp_path / "learning_front.png").exists()


def test_runs_of_other_plans_are_not_counted(tmp_path):
    """An output folder also has `--smoke`, comparisons, and rates that are tried no more."""
    store = store_of(tmp_path, lambda run: (run.method, run.seed) == ("DAPO", 1))
    mine = len(store.records)
    for other in ("short", "tiny"):
        add(store, Run(other, "branch", 1e-3, 0, 9), failed=True)
    add(store, PLAN.run("first", "GRPO", 9e-3, 0))
    data = learning(PLAN, store)
    assert (data["runs"], data["failed_runs"]) == (mine, 2)
    assert data["cpu_hours"] == pytest.approx((mine - 2) / 100)


def strict(text: str) -> dict:
    """As parsers read it that keep to RFC 8259."""

    def refused(constant: str):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refused)


def test_infinities_are_text_and_what_is_no_number_is_null(tmp_path):
    data = {
        "a": {"x": {"low": -math.inf, "high": [math.inf, 1.5]}, "y": math.nan},
        "b": [math.inf, (np.float64("nan"), 2)],
        "c": "Infinity",
    }
    path = tmp_path / "data.json"
    path.write_text(json_text(data), encoding="utf-8")
    found = strict(path.read_text(encoding="utf-8"))
    assert found["a"] == {"x": {"low": "-inf", "high": ["inf", 1.5]}, "y": None}
    assert found["b"] == ["inf", [None, 2]]
    again = read_results(path)
    assert again["a"] == {"x": {"low": -math.inf, "high": [math.inf, 1.5]}, "y": None}
    assert (again["b"], again["c"]) == ([math.inf, [None, 2]], "Infinity")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_committed_results_are_json_for_strict_parsers(path):
    strict(path.read_text(encoding="utf-8"))


def test_a_policy_that_broke_is_never_right_and_its_means_leave_out_what_is_no_number(tmp_path):
    store = store_of(tmp_path)
    rate = plans.chosen_rates(PLAN, store.any)["first", "DAPO"]
    broken = store.any(PLAN.run("first", "DAPO", rate, 2))
    store.add(broken | {"entropy": [0.5, math.nan], "length": [math.nan]})
    written = write_report(PLAN, store, results=tmp_path, readme=None)
    entry = strict(written[0].read_text(encoding="utf-8"))["results"]["DAPO | first"]
    assert (entry["entropy"], entry["length"]) == (0.5, 32.0)
