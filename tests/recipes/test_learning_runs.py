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
from benchmarks.learning import plan as plans
from benchmarks.learning import runs as runs_module
from benchmarks.learning import table
from benchmarks.learning.estimators import Estimate
from benchmarks.learning.plan import FULL, SMOKE, Plan
from benchmarks.learning.report import decided_failures, faults, json_text, learning, write_report
from benchmarks.learning.runs import Store, key, read_lines, run_all
from benchmarks.learning.tasks import TASKS
from benchmarks.learning.training import Run
from benchmarks.learning.verdict import tokens_ratio, verdict

BENCHMARKS = Path(__file__).parents[2] / "recipes" / "benchmarks"
RESULTS = BENCHMARKS / "results" / "learning.json"
README = BENCHMARKS / "README.md"
OURS = "λ-GRPO"
RUN = Run("first", "Dr. GRPO", 1e-3, 0, 5)


def record(run: Run, curve=((0, 0, 0.1, 0.5), (5, 100, 0.3, 0.8)), **more) -> dict:
    points = [list(point) for point in curve]
    told = {"rewards": [0.0], "format": [1.0], "decided": [None], "entropy": [0.5]}
    told["length"] = [float(TASKS[run.task].tokens)]
    return {
        "key": key(run), **vars(run), "curve": points, **told, "cpu_seconds": 1.0, **more
    }  # fmt: skip


def test_a_finished_run_is_found_again_and_a_torn_line_is_skipped(tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    store = Store(path)
    store.add(record(RUN))
    with path.open("a") as file:  # a kill in the middle of a write
        file.write('{"key": "abc", "cur')
    store = Store(path)
    assert "cut off" in capsys.readouterr().out
    assert store.finished(RUN)["curve"] == [[0, 0, 0.1, 0.5], [5, 100, 0.3, 0.8]]
    other = Run("first", "Dr. GRPO", 1e-3, 1, 5)
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
    changed = dataclasses.replace(runs_module.METHODS["Dr. GRPO"], told={"loss_type": "grpo"})
    with monkeypatch.context() as patch:
        patch.setitem(runs_module.METHODS, "Dr. GRPO", changed)
        assert key(RUN) != before
    smaller = dataclasses.replace(runs_module.TASKS["first"], completions=4)
    with monkeypatch.context() as patch:
        patch.setitem(runs_module.TASKS, "first", smaller)
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
    return [Run("first", "Dr. GRPO", 1e-3, seed, 5) for seed in range(count)]


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
    lane.start()
    assert str(done.get(timeout=5)) == "no more processes"
    assert done.get(timeout=5) is None


def test_the_plan_has_the_arms_and_keeps_seeds_apart():
    runs = plans.tuning(FULL, lambda run: None)
    assert len(runs) == len(set(runs))
    assert {r.task for r in runs} == {"first", "last", "chain"}
    assert {"GRPO", "Dr. GRPO", "DAPO", "RLOO", "GRPO-λ", "GRPO-λ − floor", "λ-GRPO"} <= {
        r.method for r in runs if r.task == "first"
    }
    trials = {(t, m): sum((r.task, r.method) == (t, m) for r in runs) for t, m in FULL.cells()}
    assert set(trials.values()) == {3 * 2}  # all begin with as many
    assert {t for t, m in FULL.cells() if m.startswith("probe")} == {"chain"}
    assert not {r.seed for r in runs} & set(FULL.seeds)
    assert len(FULL.seeds) >= 10


def grown(best: float, failing: tuple[float, ...] = ()):
    """A grid that is tuned to the end, where accuracy is the higher the nearer a rate is to best.

    Runs with a rate of `failing` crash.
    """
    plan = Plan(methods=("GRPO",), tasks=("first",), tuning_seeds=(1000, 1001))
    done: dict[Run, dict] = {}
    while missing := [run for run in plans.tuning(plan, done.get) if run not in done]:
        for run in missing:
            height = 1 / (1 + abs(run.learning_rate - best) * 1e3)
            curve = ((0, 0, 0.1, 0.5), (5, 100, height, 0.8))
            crash = run.learning_rate in failing
            done[run] = {"error": "ValueError"} if crash else record(run, curve)
    return plans.grid(plan, done.get, "first", "GRPO"), plans.chosen_rates(plan, done.get)


def test_a_grid_grows_until_the_best_rate_lies_inside():
    low, middle, high = TASKS["first"].learning_rates
    tried, chosen = grown(middle)
    assert list(tried) == [low, middle, high]
    assert chosen == {("first", "GRPO"): low}  # one step below
    tried, chosen = grown(best=2.8e-3)
    assert list(tried) == [low, middle, high, 2e-3, 2.8e-3, 4e-3]
    assert chosen == {("first", "GRPO"): 2e-3}
    tried, chosen = grown(best=5e-4)
    assert list(tried) == [3.5e-4, 4.9e-4, low, middle, high]
    # A run that crashed was never right.
    tried, chosen = grown(best=2.8e-3, failing=(2.8e-3,))
    assert chosen == {("first", "GRPO"): high}


def test_a_grid_that_finds_no_end_stops_growing():
    tried, _ = grown(best=1.0)
    assert len(tried) == 3 + plans.GROWN
    assert len(grown(best=0.0)[0]) == 3 + plans.GROWN


def test_a_grid_that_is_not_done_chooses_nothing():
    plan = Plan(methods=("GRPO",), tasks=("first",), tuning_seeds=(1000,))
    low = TASKS["first"].learning_rates[0]
    lookup = {plan.run("first", "GRPO", low, 1000): record(RUN)}.get
    assert plans.chosen_rates(plan, lookup) == {}
    assert list(plans.grid(plan, lookup, "first", "GRPO").values())[1:] == [None, None]


def test_the_rate_that_is_trained_with_stands_below_the_best():
    scores = {1.4e-3: 0.5, 2e-3: 0.8, 2.8e-3: 0.9, 4e-3: 0.3}
    assert plans.below_best(scores, 1) == 2e-3
    assert plans.below_best(scores, 2) == 1.4e-3
    assert plans.below_best(scores, 3) == 9.9e-4  # 1.4e-3 over √2: not tried
    assert plans.below_best({1e-3: 0.1}, 2) == 5e-4
    assert [plans.steps_below(task) for task in FULL.tasks] == [1, 1, 2]
    chosen = {
        task: plans.chosen_rates(Plan(methods=("GRPO",), tasks=(task,)), tuned(2.8e-3))
        for task in ("last", "chain")
    }
    assert list(chosen["last"].values()) == [2e-3]
    assert list(chosen["chain"].values()) == [1.4e-3]


def tuned(best: float):
    """Finds any run, the more accurate the nearer its rate is to the best."""

    def lookup(run: Run) -> dict:
        return record(run, ((0, 0, 0.1, 0.5), (5, 100, 1 - abs(run.learning_rate - best), 0.8)))

    return lookup


def test_rates_that_tie_give_the_smaller():
    assert plans.best_rate({3e-3: 0.5, 1e-3: 0.5, 3e-4: 0.2}) == 1e-3


@pytest.mark.parametrize(
    ("accuracy", "pass_at_k", "tokens", "expected"),
    [
        ((0.03, 0.01, 0.05), (0.0, -0.01, 0.01), None, "better"),
        ((0.0, -0.01, 0.01), (0.0, -0.01, 0.01), None, "level"),
        ((0.0, -0.01, 0.01), (0.0, -0.01, 0.01), 0.75, "better"),
        ((0.0, -0.01, 0.01), (0.0, -0.01, 0.01), 0.76, "level"),
        ((0.0, -0.011, 0.01), (0.0, 0.0, 0.0), 0.5, "not shown"),
        ((0.05, 0.04, 0.06), (-0.01, -0.02, 0.0), 0.5, "not shown"),
        ((0.05, 0.04, 0.06), (-0.005, -0.01, 0.0), None, "better"),
    ],
)
def test_the_verdict_by_hand(accuracy, pass_at_k, tokens, expected):
    assert verdict(Estimate(*accuracy), Estimate(*pass_at_k), tokens) == expected


def test_the_share_of_tokens_to_the_references_accuracy():
    theirs = [([0, 100, 200], [0.0, 0.5, 1.0]), ([0, 100, 200], [0.0, 0.25, 0.5])]
    ours = [([0, 40, 100], [0.0, 0.6, 1.0]), ([0, 60, 100], [0.0, 0.6, 1.0])]
    # Theirs ends at 0.75 after 200 tokens; ours is 0.6 at 50, 1.0 at 100: there after 68.75.
    assert tokens_ratio(ours, theirs) == pytest.approx(68.75 / 200, abs=1e-12)
    assert tokens_ratio(theirs, theirs) == 1.0
    # A run that crashed was never right: two thirds of 1.0 are less than 0.75.
    assert tokens_ratio([([], []), *ours], theirs) is None
    assert tokens_ratio(ours, [([], []), *theirs]) == pytest.approx(50 / 0.6 * 0.5 / 200, abs=1e-12)
    assert tokens_ratio(theirs, ours) is None
    assert tokens_ratio([([], [])], ours) is None


def test_a_little_more_than_three_quarters_of_the_tokens_is_not_better():
    ratio = tokens_ratio([([0, 7504], [0.0, 1.0])], [([0, 10_000], [0.0, 1.0])])
    assert ratio == pytest.approx(0.7504, abs=1e-9)
    alike = Estimate(0.0, 0.0, 0.0)
    assert verdict(alike, alike, ratio) == "level"
    assert verdict(alike, alike, 0.75) == "better"


def store_of(tmp_path, plan: Plan, height) -> Store:
    """All runs of a plan, with curves that rise to `height(run)`."""
    store = Store(tmp_path / "runs.jsonl")

    def add(run):
        if store.any(run) is None:
            curve = ((0, 0, 0.1, 0.5), (run.generations, 1000, height(run), 0.9))
            store.add(record(run, curve))

    while any(store.any(run) is None for run in plans.tuning(plan, store.any)):
        for run in plans.tuning(plan, store.any):
            add(run)
    for run in plans.final(plan, plans.chosen_rates(plan, store.any)):
        add(run)
    return store


PLAN = Plan(
    methods=("GRPO", "DAPO", OURS, "probe λ 0.8"), tasks=("first", "chain"), tuning_seeds=(1000,),
    seeds=(0, 1, 2), rates=2,
)  # fmt: skip


def test_the_report_says_what_the_runs_say(tmp_path):
    base = {"GRPO": 0.6, "DAPO": 0.5, OURS: 0.7, "probe λ 0.8": 0.05}
    rate = 4.9e-4  # one step below the smallest, 7e-4

    def height(run):
        return base[run.method] + 0.01 * (run.seed % 3)

    store = store_of(tmp_path, PLAN, height)
    crashed = PLAN.run("first", "DAPO", rate, 0)
    store.add({"key": key(crashed), **vars(crashed), "error": "the worker process died"})
    data = json.loads(json_text(learning(PLAN, store)))
    assert data["failed_runs"] == 1
    entry = data["results"][f"{OURS} | first"]
    assert entry["difference"] == pytest.approx([0.1, 0.1, 0.1], abs=1e-4)
    assert entry["pass_at_k_difference"] == pytest.approx([0, 0, 0], abs=1e-4)
    assert entry["verdict"] == "better"
    assert entry["edge"]  # both rates alike: the smaller
    assert entry["learning_rate"] == rate
    assert set(entry["tried"]) == {"0.0007", "0.001"}
    assert (entry["final"], entry["lowest"]) == (pytest.approx(0.71), pytest.approx(0.7))
    # GRPO's mean of 0.61 on a line from 0.1 to 0.71; its own runs have it near their ends.
    assert entry["tokens_to_reference"] == pytest.approx(0.51 / 0.61, abs=0.01)
    told = ("entropy", "length", "format", "decided", "seconds", "generated_tokens")
    assert [entry[name] for name in told] == [0.5, 32.0, 1.0, None, 1.0, 1000]
    # Two seeds of 0.51 and 0.52, and a crash, which counts as one that learnt nothing.
    dapo = data["results"]["DAPO | first"]
    assert dapo["final"] == pytest.approx((0.51 + 0.52) / 3, abs=1e-3)
    assert (dapo["lowest"], dapo["collapsed"], dapo["verdict"]) == (0.0, 1, "not shown")
    assert data["results"]["probe λ 0.8 | chain"]["collapsed"] == 3
    assert "probe λ 0.8 | first" not in data["results"]
    assert "verdict" not in data["results"]["GRPO | first"]
    assert data["overall"][OURS]["improves"][0] == 1.0
    assert "probe λ 0.8" not in data["overall"]  # it has one task
    assert data["tasks"]["first"]["start"] == 0.1
    assert data["seeds"]["final"] == [0, 1, 2]
    assert data["versions"]["trl"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"format": [0.5] * 9}, "50% of the last completions keep their text"),
        ({"decided": [0.2] * 9}, "20% of the failures are decided where the name says"),
        ({"length": [14.0] * 9}, "the last completions have 14.0 of 32 tokens"),
        ({"curve": [(0, 0, 0.3, 1), (9, 9, 0.6, 1), (18, 9, 0.5, 1)]}, "falls by 0.10 on the way"),
    ],
    ids=str,
)
def test_a_task_that_does_not_measure_what_it_says_is_told(change, fault):
    good = {
        "format": [0.0, *[1.0] * 5],
        "decided": [1.0, None, *[1.0] * 7],
        "rewards": [0.0, 1.0, *[0.5] * 7],
        "length": [1.0, *[32.0] * 5],
    }
    curve = ((0, 0, 0.3, 1), (9, 9, 0.6, 1), (18, 9, 0.58, 1))
    found = faults("first", [record(RUN, curve, **good) | change])
    assert found == [] if fault is None else len(found) == 1
    assert fault is None or found[0].endswith(fault)


def test_failures_count_once_whenever_they_happened():
    early = record(RUN, decided=[1.0, 0.0, None], rewards=[0.1, 0.9, 1.0])
    assert decided_failures([early]) == pytest.approx(0.9)  # nine of ten fail in the first step
    assert decided_failures([record(RUN)]) is None


def test_the_committed_means_have_the_tasks_that_measure_what_their_names_say():
    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    measuring = [task for task, entry in data["tasks"].items() if not entry["faults"]]
    assert {"first", "last"} <= set(measuring)
    finals = [data["results"][f"GRPO | {task}"]["final"] for task in measuring]
    assert data["overall"]["GRPO"]["mean"] == pytest.approx(sum(finals) / len(finals), abs=1e-3)
    assert len(data["seeds"]["final"]) == 10


def test_the_report_writes_a_picture_and_a_table(tmp_path):
    store = store_of(tmp_path, PLAN, lambda run: 0.5 + 0.1 * (run.method == OURS))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- learning -->\nearlier text\n<!-- learning -->\nafter\n")
    written = write_report(PLAN, store, results=tmp_path / "results", readme=readme)
    assert [p.name for p in written] == ["learning.json", "learning.png", "README.md"]
    assert written[1].read_bytes().startswith(b"\x89PNG")
    text = readme.read_text()
    assert text.startswith("before\n<!-- learning -->\n")
    assert text.endswith("\n<!-- learning -->\nafter\n")
    assert "earlier text" not in text
    data = json.loads(written[0].read_text())
    assert table.between_marks(readme) == table.markdown(data)
    for part in table.markdown(data).split("\n\n")[1::2]:  # every second is a table
        assert len({line.count("|") for line in part.splitlines()}) == 1
    verdicts = [line for line in text.splitlines() if line.startswith(f"| {OURS} | **better** |")]
    assert len(verdicts) == 1
    write_report(PLAN, store, results=tmp_path / "results", readme=readme)
    assert readme.read_text() == text  # again: the same


def test_a_part_of_the_runs_does_not_reach_the_readme(tmp_path, capsys):
    store = store_of(tmp_path, PLAN, lambda run: 0.5)
    rate = plans.chosen_rates(PLAN, store.any)["chain", "DAPO"]
    del store.records[key(PLAN.run("chain", "DAPO", rate, 2))]
    readme = tmp_path / "README.md"
    readme.write_text("<!-- learning -->\nearlier text\n<!-- learning -->\n")
    written = write_report(PLAN, store, results=tmp_path, readme=readme)
    assert json.loads(written[0].read_text())["missing"] == ["DAPO on chain"]
    assert "earlier text" in readme.read_text()
    assert "DAPO on chain" in capsys.readouterr().out


def test_methods_that_are_named_come_with_their_reference():
    assert plans.only(FULL, ["DAPO", "branch"]).methods == ("GRPO", "DAPO", "branch")
    with pytest.raises(SystemExit, match="no GPRO"):
        plans.only(FULL, ["GPRO"])


def test_fewer_seeds_are_the_first_ones():
    assert plans.only(FULL, seeds=3).seeds == (0, 1, 2)
    assert plans.only(FULL) == FULL
    for wrong in (1, 11):
        with pytest.raises(SystemExit, match=f"--seeds {wrong}: from 2"):
            plans.only(FULL, seeds=wrong)


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
    for word in ("--compare", "--budget_hours", "--smoke", "--report", "runs.jsonl"):
        assert word in process.stdout
    wrong = run_recipe("benchmarks/learning", "--budget_hours", "0", succeeds=False)
    assert wrong.returncode == 2
    assert "hours" in wrong.stderr
    unused = ("--compare", "branching", "--seeds", "3")
    wrong = run_recipe("benchmarks/learning", *unused, succeeds=False)
    assert "leave out --smoke and --seeds" in wrong.stderr


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
    assert len(records) == len({r["key"] for r in records}) == 2 + 4  # none done twice
    assert not any("error" in record for record in records)
    for record in records:
        assert kept.get(record["key"], record) == record
    assert all(f"| {method} |" in readme.read_text() for method in SMOKE.methods)
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
    until = time.monotonic() + 600
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
