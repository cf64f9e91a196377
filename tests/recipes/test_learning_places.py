"""Which files the learning benchmark writes: committed ones only from whole results."""

from __future__ import annotations

import json

import pytest
from benchmarks.learning import __main__ as main_module
from benchmarks.learning import comparisons, table
from benchmarks.learning import plan as plans
from benchmarks.learning import runs as runs_module
from benchmarks.learning.runs import Store, key
from benchmarks.learning.tasks import SHORT, TASKS

PLAN = plans.Plan(
    methods=("GRPO", "DAPO"), tasks=("first",), tuning_seeds=(1000,), seeds=(0, 1), rates=1
)
COMPARISON = comparisons.Comparison("branching", ("GRPO", "branch"), (SHORT,), seeds=(0,))


@pytest.fixture
def start(monkeypatch, tmp_path):
    """One start with these arguments, in place of training at most `runs` runs; (code, files).

    The folder of the benchmarks, with the committed files, is tmp_path/benchmarks.
    """
    home = tmp_path / "benchmarks"
    (home / "results").mkdir(parents=True)
    (home / "learning").mkdir()
    for place, mark in ((home, table.MARK), (home / "learning", COMPARISON.mark)):
        (place / "README.md").write_text(f"{mark}\nearlier\n{mark}\n")
    monkeypatch.setattr(main_module, "BENCHMARKS", home)
    monkeypatch.setattr(plans, "FULL", PLAN)
    monkeypatch.setattr(comparisons, "BRANCHING", COMPARISON)
    monkeypatch.chdir(tmp_path)

    def started(*arguments: str, runs: int = 10**9):
        def run_all(asked, store: Store, folder, **settings):
            nonlocal runs
            left = [run for run in dict.fromkeys(asked) if store.finished(run) is None]
            for run in left[:runs]:
                told = {"length": [float(TASKS[run.task].tokens)], "format": [1.0]}
                points = ([0, 0, 0.1, 0.5], [9, 99_000, 0.6, 0.9])
                columns = 4 if TASKS[run.task].exact else 3
                told |= {"curve": [point[:columns] for point in points], "cpu_seconds": 1.0}
                store.add({"key": key(run), **vars(run)} | told)
            runs, left = runs - len(left[:runs]), left[runs:]
            return left

        monkeypatch.setattr(runs_module, "run_all", run_all)
        monkeypatch.setattr("sys.argv", ["learning", *arguments])
        code = 0
        try:
            main_module.main()
        except SystemExit as error:
            code = error.code
        names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
        return code, names - {"benchmarks/README.md", "benchmarks/learning/README.md"}

    started.readme = lambda: (home / "README.md").read_text()
    started.branching = lambda: (home / "learning" / "README.md").read_text()
    return started


STORE = "learning/runs.jsonl"


def test_whole_results_are_committed(start):
    code, files = start()
    written = {"benchmarks/results/learning.json", "benchmarks/results/learning.png"}
    assert (code, files) == (0, {STORE} | written)
    assert "| DAPO |" in start.readme()


def test_a_part_of_the_results_stays_in_the_output_folder(start, capsys):
    assert start(runs=5) == (3, {STORE})  # two rates, then three of four seeds
    assert "1 run to do" in capsys.readouterr().out
    code, files = start("--report")
    assert (code, files) == (0, {STORE, "learning/learning.json", "learning/learning.png"})
    assert "earlier" in start.readme()
    assert "DAPO on first" in capsys.readouterr().out
    # Who names a folder gets it.
    code, files = start("--report", "--results", "mine")
    assert {"mine/learning.json", "mine/learning.png"} <= files
    assert "earlier" in start.readme()
    assert not any(name.startswith("benchmarks/results") for name in files)


def test_results_in_another_folder_leave_the_readme_alone(start):
    start("--results", "mine")
    assert "earlier" in start.readme()
    start("--results", "benchmarks/results")
    assert "earlier" not in start.readme()


def test_a_part_of_a_comparison_stays_in_the_output_folder(start, capsys):
    arguments = ("--compare", "branching")
    assert start(*arguments, runs=3) == (3, {STORE})
    left = len(COMPARISON.runs()) - 3
    assert f"{left} runs to do" in capsys.readouterr().out
    assert start(*arguments, "--report") == (0, {STORE, "learning/branching.json"})
    assert "earlier" in start.branching()
    out = capsys.readouterr().out
    assert f"{left} runs of the plan were not run." in out
    code, files = start(*arguments)
    assert code == 0
    assert "benchmarks/results/branching.json" in files
    assert "earlier" not in start.branching()


def test_the_committed_comparison_is_printed_where_the_folder_has_other_runs_alone(start, capsys):
    start("--compare", "branching", "--output_dir", "other")
    table_of = capsys.readouterr().out.split("wrote")[0]
    start()
    capsys.readouterr()
    code, files = start("--compare", "branching", "--report")
    assert code == 0
    assert capsys.readouterr().out.strip() == table_of.strip()
    assert "learning/branching.json" not in files


def test_crashed_runs_alone_have_a_table(start, tmp_path):
    store = Store(tmp_path / STORE)
    for run in COMPARISON.runs():
        store.add({"key": key(run), **vars(run), "error": "ValueError: no"})
    assert start("--compare", "branching", "--report")[0] == 0
    found = json.loads((tmp_path / "benchmarks/results/branching.json").read_text())
    text = comparisons.markdown(found)
    assert "Runs start at –" in text
    assert "| 1 (1 crashed) |" in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workers", "0"), "0 is not a number of processes"),
        (("--workers", "-1"), "-1 is not a number of processes"),
        (("--workers", "two"), "two is not a number of processes"),
        (("--budget_hours", "nan"), "nan is not a number of hours above 0"),
        (("--budget_hours", "long"), "long is not a number of hours above 0"),
    ],
    ids=str,
)
def test_numbers_that_mean_nothing_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as error:
        main_module.parse_arguments(list(arguments))
    assert error.value.code == 2
    assert said in capsys.readouterr().err


def test_a_probe_has_nothing_to_ask_for_where_there_is_no_answer(start):
    code, _ = start("--compare", "branching", "--methods", "probe λ 0.5")
    assert "probe λ 0.5" in code
    assert SHORT in code
    code, _ = start("--methods", "probe λ 0.5")  # of this plan's one task
    assert "probe λ 0.5" in code
    assert "first" in code


def test_a_smoke_run_has_no_more_seeds_than_its_own():
    with pytest.raises(SystemExit, match="--seeds 5: from 2, for an interval, to 2"):
        plans.only(plans.SMOKE, seeds=5)
