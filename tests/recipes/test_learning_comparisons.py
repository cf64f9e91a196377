"""Choices of branching rollouts, compared: that they learn, and the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from benchmarks.learning import comparisons, table
from benchmarks.learning.comparisons import BRANCHING, Comparison, markdown
from benchmarks.learning.methods import METHODS, result_ends
from benchmarks.learning.runs import Store, key
from benchmarks.learning.tasks import SHORT, TASKS, TEXT, first_digits, tagged_task
from benchmarks.learning.training import Run, train

BENCHMARKS = Path(__file__).parents[2] / "recipes" / "benchmarks"
RESULTS = BENCHMARKS / "results"
README = BENCHMARKS / "learning" / "README.md"

# `short` with fixed texts of three tokens, and a start that takes seconds.
SMALLER = tagged_task(
    "smaller",
    "three of 12 tokens",
    [TEXT[:3], TEXT[3:6], TEXT[6:9], ""],
    right=0.5,
    generations=60,
    learning_rates=(1e-3,),
    reward=first_digits,
    exact=False,
    groups=4,
    schedule="constant_with_warmup",
    max_grad_norm=1.0,
    measurements=6,
    measured=8,
    warm_start_steps=600,
)


@pytest.mark.slow
def test_the_shipped_branch_does_not_collapse_where_grpo_learns(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "smaller", SMALLER)
    curves = {
        method: train(Run("smaller", method, 1e-3, 0, generations=60), tmp_path)["curve"]
        for method in ("GRPO", "branch")
    }
    for curve in curves.values():
        start, end = curve[0][2], comparisons.final(curve)
        assert end > start + 0.15, curves
    assert curves["branch"][-1][1] < 0.8 * curves["GRPO"][-1][1]  # tokens that were generated


def test_the_arms_are_the_shipped_method_and_its_choices_one_at_a_time():
    assert METHODS["branch"].told == {"method": "branch"}
    arms = [METHODS[arm] for arm in BRANCHING.arms if METHODS[arm].told.get("method") == "branch"]
    more = ("td_error", "branch_weights")
    assert all(len(arm.told) <= 2 + len(arm.told.keys() & set(more)) for arm in arms)
    told = [arm.told for arm in arms]
    assert {"method": "branch", "rollout": "independent"} in told
    assert {t["branch_at"] for t in told if "branch_at" in t} == {"fraction", "entropy"}
    assert {t["sibling_shrinkage"] for t in told if "sibling_shrinkage" in t} == {0, float("inf")}


def test_the_plan_has_every_arm_with_every_rate_and_three_seeds():
    runs = BRANCHING.runs()
    rates = len(TASKS[SHORT].learning_rates)
    assert len(runs) == len(set(runs)) == len(BRANCHING.arms) * rates * 3
    assert {run.seed for run in runs[: len(runs) // 3]} == {0}
    with pytest.raises(SystemExit, match="no GPRO"):
        comparisons.only(BRANCHING, ["GPRO"])


def store_of(tmp_path, plan: Comparison, curve_of) -> Store:
    store = Store(tmp_path / "runs.jsonl")
    for run in plan.runs():
        curve = curve_of(run)
        if curve is None:
            continue
        found = {"error": "x\nValueError: no"} if curve == "crash" else {"curve": curve}
        store.add({"key": key(run), **vars(run), "cpu_seconds": 1.0} | found)
    return store


def test_the_table_says_what_the_runs_say(tmp_path, capsys):
    plan = dataclasses.replace(BRANCHING, arms=("GRPO", "branch"))
    low, middle, *higher = TASKS[SHORT].learning_rates

    def curve_of(run: Run):
        if run.learning_rate in higher:
            return None
        if run.method == "GRPO" and (run.learning_rate, run.seed) == (middle, 1):
            return "crash"
        if run.method == "branch" and (run.learning_rate, run.seed) == (low, 2):
            return [[0, 0, 0.2], [10, 50_000, 0.0], [20, 100_000, 0.0], [30, 150_000, 0.1]]
        return [[0, 0, 0.2], [10, 40_000, 0.6], [20, 80_000, 1.0], [30, 120_000, 1.0]]

    store = store_of(tmp_path, plan, curve_of)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BRANCHING.mark}\n{BRANCHING.mark}\nafter\n")
    written = comparisons.write_results(plan, store, results=tmp_path, readme=readme)
    assert [path.name for path in written] == ["branching.json", "README.md"]
    data = json.loads(written[0].read_text())
    assert table.between_marks(readme, mark=BRANCHING.mark) == markdown(data)
    text = markdown(data)
    assert text in capsys.readouterr().out
    assert "12 runs of the plan were not run." in text
    assert "Runs start at 0.200" in text
    rows = {tuple(line.split(" | ")[:2]): line for line in text.splitlines() if "e-4" in line}
    good = rows["| GRPO", "3.5e-4"]
    # Straight lines: halfway to the first measurement, then at it, and halfway to the next.
    assert "| 3 | 0.400 [0.400, 0.400] | 0.600 [0.600, 0.600] | 0.800" in good
    assert "| 120k | 40, 40, 40 | 0 |" in good
    assert "| 3 (1 crashed) |" in rows["| GRPO", "5e-4"]
    mixed = rows["| branch", "3.5e-4"]
    assert "| 0.413 [0.040, 0.600] |" in mixed  # at 40 thousand: 0.6, 0.6 and 0.04
    assert "40, 40, never | 1 |" in mixed
    assert not any("7e-4" in row or "1e-3" in row for row in rows)


def test_a_run_that_ended_before_has_no_accuracy_there():
    curve = [[0, 0, 0.2], [10, 150_000, 0.6]]
    assert comparisons.value_at(curve, 100_000) == pytest.approx(0.2 + 0.4 * 2 / 3)
    assert comparisons.value_at(curve, 200_000) is None
    assert comparisons.spread([0.5, None]) == "–"


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(SystemExit, match="nothing to report"):
        comparisons.collected(BRANCHING, Store(tmp_path / "none.jsonl"))


@pytest.mark.slow
def test_the_committed_results_are_printed_by_the_command(run_recipe):
    process = run_recipe("benchmarks/learning", "--compare", "branching", "--report")
    assert markdown(committed(BRANCHING)) in process.stdout


def test_the_readme_has_the_table_of_the_committed_results():
    assert table.between_marks(README, mark=BRANCHING.mark) == markdown(committed(BRANCHING))


def committed(plan: Comparison) -> dict:
    return json.loads((RESULTS / f"{plan.name}.json").read_text(encoding="utf-8"))


def test_a_step_of_the_chain_ends_with_its_result():
    assert result_ends(list(range(9)), list("6-6=0-0=0")) == [4, 8]


@pytest.mark.slow
def test_the_probe_trains_on_the_chain(tmp_path, monkeypatch):
    chain = dataclasses.replace(TASKS["chain"], name="tiny chain", warm_start_steps=60)
    monkeypatch.setitem(TASKS, "tiny chain", chain)
    found = train(Run("tiny chain", "probe + branch", 1e-3, 0, generations=3), tmp_path)
    assert len(found["rewards"]) == 3
