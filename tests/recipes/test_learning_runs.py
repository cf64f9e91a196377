"""Runs that survive a kill, the rules that choose, the report, and the recipe as a user runs it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from benchmarks.learning import runs as runs_module
from benchmarks.learning import stages, table
from benchmarks.learning.report import json_text, learning, write_report
from benchmarks.learning.runs import Store, key, read_lines, run_all
from benchmarks.learning.stages import FULL, SMOKE, Plan
from benchmarks.learning.tasks import TASKS
from benchmarks.learning.training import Run

BENCHMARKS = Path(__file__).parents[2] / "recipes" / "benchmarks"
RESULTS = BENCHMARKS / "results" / "learning.json"
README = BENCHMARKS / "README.md"
OURS = "Dr. GRPO + sets + recent 0.99"
RUN = Run("search", "Dr. GRPO", 1e-3, 0, 5)


def record(run: Run, curve=((0, 0, 0.1), (5, 100, 0.3)), **more) -> dict:
    points = [list(point) for point in curve]
    return {
        "key": key(run), **vars(run), "curve": points, "rewards": [0.0], "cpu_seconds": 1.0, **more
    }  # fmt: skip


def test_a_finished_run_is_found_again_and_a_torn_line_is_skipped(tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    store = Store(path)
    store.add(record(RUN))
    with path.open("a") as file:  # a kill in the middle of a write
        file.write('{"key": "abc", "cur')
    store = Store(path)
    assert "cut off" in capsys.readouterr().out
    assert store.finished(RUN)["curve"] == [[0, 0, 0.1], [5, 100, 0.3]]
    other = Run("search", "Dr. GRPO", 1e-3, 1, 5)
    store.add(record(other))
    again = Store(path)
    assert again.finished(RUN)
    assert again.finished(other)
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"learning_rate": 2e-3}, {"generations": 6}, {"method": "DAPO"}],
    ids=str,
)
def test_another_run_has_another_key(change):
    assert key(Run(**(vars(RUN) | change))) != key(RUN)


def test_changed_settings_have_another_key(monkeypatch):
    import dataclasses

    before = key(RUN)
    changed = dataclasses.replace(runs_module.METHODS["Dr. GRPO"], settings={"loss_type": "grpo"})
    with monkeypatch.context() as patch:
        patch.setitem(runs_module.METHODS, "Dr. GRPO", changed)
        assert key(RUN) != before
    smaller = dataclasses.replace(runs_module.TASKS["search"], completions=8)
    with monkeypatch.context() as patch:
        patch.setitem(runs_module.TASKS, "search", smaller)
        assert key(RUN) != before
    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "versions", lambda: {"trl": "9"})
        assert key(RUN) != before
    assert key(RUN) == before


class DyingWorker:
    """Stands in for a process; one seed kills it."""

    def __init__(self):
        self.dead = False

    def submit(self, function, run, key, work):
        self.run = run
        return self

    def result(self):
        if self.run.seed == 1:
            raise runs_module.BrokenProcessPool("killed")
        if self.run.seed == 2:
            return {"key": key(self.run), **vars(self.run), "error": "ValueError: no"}
        return record(self.run)

    def shutdown(self):
        pass


@pytest.fixture
def workers(monkeypatch):
    made = []
    monkeypatch.setattr(runs_module, "new_worker", lambda: made.append(DyingWorker()) or made[-1])
    monkeypatch.setattr(runs_module, "make_warm_starts", lambda *arguments: None)
    return made


def some_runs(count: int = 4) -> list[Run]:
    return [Run("search", "Dr. GRPO", 1e-3, seed, 5) for seed in range(count)]


def test_a_crash_is_recorded_and_the_others_go_on(workers, tmp_path):
    store = Store(tmp_path / "runs.jsonl")
    far = time.monotonic() + 60
    left = run_all(some_runs(), store, tmp_path, workers=1, deadline=far, name="x")
    assert left == []
    found = [store.finished(run) is not None for run in some_runs()]
    assert found == [True, False, False, True]
    assert "died" in store.any(some_runs()[1])["error"]
    assert len(workers) == 2  # the dead one was replaced
    # What is finished is not done again; what failed is.
    before = len(store.path.read_text().splitlines())
    run_all(some_runs(), store, tmp_path, workers=1, deadline=far, name="x")
    assert len(store.path.read_text().splitlines()) == before + 2


def test_the_budget_leaves_the_rest_for_the_next_start(workers, tmp_path):
    store = Store(tmp_path / "runs.jsonl")
    left = run_all(some_runs(), store, tmp_path, workers=1, deadline=time.monotonic(), name="x")
    assert left == some_runs()
    assert not store.path.exists()


def test_a_lane_that_breaks_does_not_hang_the_rest(monkeypatch, tmp_path):
    def broken():
        raise OSError("no more processes")

    monkeypatch.setattr(runs_module, "new_worker", broken)
    done = queue.Queue()
    lane = runs_module.Lane(queue.Queue(), done, key, dict, time.monotonic() + 9)
    monkeypatch.setattr(runs_module.threading, "excepthook", lambda args: None)
    lane.start()
    assert done.get(timeout=5) is None


def test_the_plan_is_the_issues():
    runs = stages.screening(FULL)
    assert len(runs) == len(set(runs))
    assert {r.task for r in runs} == {"early", "search"}
    of_one = [r for r in runs if r.method == "λ-GRPO"]
    assert len(of_one) == 2 * 3 * 3
    tuned = stages.tuning(FULL, FULL.always)
    assert {sum(r.method == m for r in tuned) for m in FULL.always} == {5 * 3 * 3}
    seeds = {r.seed for r in tuned} | {r.seed for r in runs}
    assert not seeds & set(FULL.seeds)
    assert len(FULL.seeds) >= 10
    assert {"DAPO", "Dr. GRPO", "λ-GRPO", OURS} <= set(FULL.always)


def store_of(tmp_path, plan: Plan, height) -> Store:
    """All runs of a plan, with curves that rise to `height(run)`."""
    store = Store(tmp_path / "runs.jsonl")

    def add(run):
        last = 2 * run.generations
        end = height(run)
        flat = [(last + 10 * i, 10 * last + 100 * i, end) for i in range(3)]
        store.add(record(run, ((0, 0, 0.1), *flat)))

    for run in stages.screening(plan):
        add(run)
    methods = stages.choose_methods(plan, stages.screening_scores(plan, store.any))
    for run in stages.tuning(plan, methods):
        add(run)
    for run in stages.final(plan, stages.choose_rates(plan, store.any, methods)):
        add(run)
    return store


def test_the_rules_choose(tmp_path):
    plan = Plan(
        screening_methods=(
            "DAPO", "Dr. GRPO", "λ-GRPO", OURS, "GRPO", "GSPO", "tree 0 (TEMPO)", "tree 0.9",
            "GRPO + floor", "λ-GRPO + floor", "process", "GRPO-λ both ratio 0.99 paper",
            "GRPO-λ recent ratio 0.9",
        ),
        screening_seeds=(2000,), tuning_seeds=(1000,), seeds=(0, 1), tasks=("early",),
    )  # fmt: skip
    good = {"tree 0.9": 0.5, "GRPO-λ recent ratio 0.9": 0.6, "GSPO": 0.4, "process": 0.9}
    middle = TASKS["early"].learning_rates[1]

    def height(run):
        return good.get(run.method, 0.3) + (0.05 if run.learning_rate == middle else 0.0)

    store = store_of(tmp_path, plan, height)
    scores = stages.screening_scores(plan, store.any)
    assert stages.choose_methods(plan, scores) == [
        "DAPO", "Dr. GRPO", "λ-GRPO", OURS, "GRPO", "GRPO + floor", "GRPO-λ recent ratio 0.9",
        "tree 0.9", "λ-GRPO + floor", "GSPO",
    ]  # fmt: skip
    rates = stages.choose_rates(plan, store.any, plan.always)
    assert set(rates.values()) == {middle}
    # One trial less, and the method is not compared.
    run = plan.run("search", "GSPO", 1e-3, 2000)
    del store.records[key(run)]
    assert "GSPO" not in stages.screening_scores(plan, store.any)


def test_rates_that_tie_give_the_smaller():
    assert stages.best_rate({3e-3: 0.5, 1e-3: 0.5, 3e-4: 0.2}) == 1e-3


def report_plan() -> Plan:
    return Plan(
        screening_methods=("DAPO", "Dr. GRPO", OURS, "process"),
        screening_seeds=(2000,), tuning_seeds=(1000,), seeds=(0, 1, 2), tasks=("early", "search"),
        always=("DAPO", "Dr. GRPO", OURS), best_of=("process",), methods=4,
    )  # fmt: skip


def test_the_report_says_what_the_runs_say(tmp_path):
    plan = report_plan()
    base = {"DAPO": 0.5, "Dr. GRPO": 0.6, OURS: 0.7, "process": 0.4}

    def height(run):
        return base[run.method] + 0.01 * (run.seed % 3)

    store = store_of(tmp_path, plan, height)
    crashed = plan.run("early", "DAPO", TASKS["early"].learning_rates[0], 0)
    store.add({"key": key(crashed), **vars(crashed), "error": "the worker process died"})
    data = json.loads(json_text(learning(plan, store)))
    assert data["failed_runs"] == 1
    entry = data["by_task"]["early"][OURS]
    assert entry["difference"] == pytest.approx([0.1, 0.1, 0.1], abs=1e-4)
    assert entry["non_inferior"] is True
    assert entry["edge"] == "low"  # all rates alike: the smallest
    assert data["by_task"]["early"]["process"]["non_inferior"] is False
    # From 0.1 to about 0.71 in 100 steps: the reference's mean 0.61 is met after 5/6 of them.
    assert entry["target"] == pytest.approx(0.61)
    assert entry["steps"] == pytest.approx(100 * 0.51 / 0.61, abs=1)
    assert entry["tokens"] == pytest.approx(10 * entry["steps"], abs=10)
    assert data["by_task"]["early"]["DAPO"]["steps"] is None
    # Two seeds of 0.51 and 0.52, and a crash, which counts as one that learnt nothing.
    assert data["by_task"]["early"]["DAPO"]["final"] == pytest.approx((0.51 + 0.52) / 3, abs=1e-3)
    assert data["overall"]["best_baseline"] == "Dr. GRPO"
    assert data["overall"][OURS]["improves_final"][0] == 1.0
    assert "process" not in data["overall"]  # it has no search
    assert data["seeds"]["final"] == [0, 1, 2]
    assert data["versions"]["trl"]


def test_the_report_writes_a_picture_and_a_table(tmp_path):
    plan = report_plan()
    store = store_of(tmp_path, plan, lambda run: 0.5)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- learning -->\nearlier text\n<!-- learning -->\nafter\n")
    written = write_report(plan, store, results=tmp_path / "results", readme=readme)
    assert [p.name for p in written] == ["learning.json", "learning.png", "README.md"]
    assert written[1].read_bytes().startswith(b"\x89PNG")
    text = readme.read_text()
    assert text.startswith("before\n<!-- learning -->\n")
    assert text.endswith("\n<!-- learning -->\nafter\n")
    assert "earlier text" not in text
    data = json.loads(written[0].read_text())
    assert table.between_marks(readme) == table.markdown(data)
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| DAPO")}
    assert widths
    write_report(plan, store, results=tmp_path / "results", readme=readme)
    assert readme.read_text() == text  # again: the same


def test_a_part_of_the_runs_does_not_reach_the_readme(tmp_path, capsys):
    plan = report_plan()
    store = store_of(tmp_path, plan, lambda run: 0.5)
    rates = stages.choose_rates(plan, store.any, ["DAPO"])
    del store.records[key(plan.run("search", "DAPO", rates["DAPO", "search"], 2))]
    readme = tmp_path / "README.md"
    readme.write_text("<!-- learning -->\nearlier text\n<!-- learning -->\n")
    written = write_report(plan, store, results=tmp_path, readme=readme)
    assert json.loads(written[0].read_text())["missing"] == ["DAPO on search"]
    assert "earlier text" in readme.read_text()
    assert "DAPO on search" in capsys.readouterr().out


def test_where_the_reference_learns_nothing_the_table_says_so(tmp_path):
    plan = report_plan()
    low = {("Dr. GRPO", "search"): 0.05}
    data = learning(plan, store_of(tmp_path, plan, lambda r: low.get((r.method, r.task), 0.5)))
    text = table.markdown(data)
    assert "On search Dr. GRPO ends no better than it starts, so bold says nothing" in text
    assert "0.050 (start 0.100)" in text
    # Its own low end is no target: that is the best of TRL's methods.
    assert data["by_task"]["search"][OURS]["target"] == pytest.approx(0.5, abs=0.02)


def test_a_readme_without_marks_is_left_alone(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("mine")
    assert table.insert(readme, "x") is False
    assert readme.read_text() == "mine"
    assert "<!-- learning -->" in capsys.readouterr().out
    readme.write_text("<!-- learning --> once")
    with pytest.raises(SystemExit, match="two"):
        table.insert(readme, "x")


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(SystemExit, match="nothing to report"):
        learning(SMOKE, Store(tmp_path / "none.jsonl"))


def test_the_readme_has_the_table_of_the_committed_results():
    committed, marked = RESULTS.exists(), table.MARK in README.read_text(encoding="utf-8")
    assert committed == marked, "learning.json and the README's table belong together"
    if committed:
        data = json.loads(RESULTS.read_text(encoding="utf-8"))
        assert table.between_marks(README) == table.markdown(data)
        assert RESULTS.stat().st_size < 1_000_000


def test_help_helps(run_recipe):
    process = run_recipe("benchmarks/learning", "--help")
    for word in ("--stage", "--budget_hours", "--smoke", "--report", "runs.jsonl"):
        assert word in process.stdout
    wrong = run_recipe("benchmarks/learning", "--budget_hours", "0", succeeds=False)
    assert wrong.returncode == 2
    assert "hours" in wrong.stderr


@pytest.mark.slow
def test_smoke_run_survives_a_kill_and_ends_in_a_table(run_recipe, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"{table.MARK}\n{table.MARK}\n")
    arguments = ("--smoke", "--output_dir", "out", "--readme", "README.md", "--workers", "2")
    path = tmp_path / "out" / "runs.jsonl"
    with pytest.raises(KilledInTime):
        kill_when(lambda: len(read_lines(path)) >= 3, arguments, tmp_path)
    kept = {record["key"]: record for record in read_lines(path)}
    path.write_bytes(path.read_bytes() + b'{"key": "cut o')
    run_recipe("benchmarks/learning", *arguments)
    records = read_lines(path)
    assert len(records) == len({r["key"] for r in records}) == 2 + 2 + 4  # none done twice
    assert not any("error" in record for record in records)
    for record in records:
        assert kept.get(record["key"], record) == record
    assert all(f"| {method} |" in readme.read_text() for method in SMOKE.always)
    assert len(os.listdir(tmp_path / "out" / "warm_starts")) == 1
    # The same run again has the same numbers.
    last = records[-1]
    path.write_text("".join(json.dumps(r) + "\n" for r in records[:-1]))
    run_recipe("benchmarks/learning", *arguments)
    assert Store(path).records[last["key"]]["curve"] == last["curve"]


class KilledInTime(Exception):
    """The recipe was killed, and had not ended by itself."""


def kill_when(condition, arguments: tuple[str, ...], folder: Path) -> None:
    """Runs the recipe, kills it with SIGKILL, and waits until its workers have gone as well."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = psutil.Popen(
        [sys.executable, str(BENCHMARKS / "learning"), *arguments], cwd=folder, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.05)
    workers = process.children(recursive=True)
    process.kill()
    process.wait()
    assert workers
    assert psutil.wait_procs(workers, timeout=300)[1] == [], "workers outlived the recipe"
    raise KilledInTime
