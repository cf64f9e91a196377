"""From finished runs of the language benchmark to its JSON, table and picture."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.language import figure, plan, report
from benchmarks.learning.runs import Store
from benchmarks.learning.table import between_marks
from language_runs import filled, made_plan

LANGUAGE = Path(__file__).parents[2] / "recipes" / "benchmarks" / "language"
RESULTS = LANGUAGE.parent / "results" / "language.json"

VERDICTS = {
    "better": lambda seed: [0.62 + 0.001 * seed],
    "level": lambda seed: [0.5 + 0.001 * seed],
    "not shown": lambda seed: [0.5 + 0.1 * (seed - 1)],
    "worse": lambda seed: [0.4],
    "faster": lambda seed: [0.5, 0.5],
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_verdict_is_the_rule_s(tmp_path, case):
    made = made_plan(rates=(1e-5,))

    def height(run):
        if run.arm == "default":
            return VERDICTS[case](run.seed)
        return [0.4, 0.5] if case == "faster" else [0.5]

    entry = report.language(made, filled(tmp_path, made, height))["arms"]["default"]
    expected = {"worse": "not shown", "faster": "better"}.get(case, case)
    assert entry["verdict"] == expected
    if case == "better":
        assert entry["accuracy_difference"][0] == pytest.approx(0.121)
        # From .3 to .621 in 100 tokens: .5 is met after 200/321 of them.
        assert entry["tokens_to_reference"] == pytest.approx(0.2 / 0.321, abs=2e-3)
    if case == "faster":
        assert entry["tokens_to_reference"] == 0.5


def test_the_report_is_made_of_the_json_alone(tmp_path):
    made = made_plan()
    store = filled(tmp_path, made, lambda run: [0.5, 0.6 + 0.01 * run.seed])
    crash(store, made, made.run("default", 1e-5, 2))
    readme = marked(tmp_path)
    written = report.write_report(made, store, results=tmp_path / "results", readme=readme)
    names = ["language.json", "language.csv", "language.png", "README.md"]
    assert [path.name for path in written] == names
    data = json.loads(written[0].read_text())
    assert between_marks(readme, mark=report.MARK) == report.markdown(data)
    assert (
        "| `default` (1 failed) | 1e-05 ↓ | 0.403 |" in readme.read_text()
    )  # a third of (.6 + .61 + 0)
    assert data["runs"]["default | 2"] == {"error": "OSError: full"}
    assert data["failed_runs"] == 1
    rows = list(csv.DictReader(io.StringIO(written[1].read_text())))
    assert len(rows) == 3 * 5  # three measurements of the five runs that ended
    assert {row["arm"] for row in rows} == {"grpo", "default"}
    assert rows[2]["accuracy"] == "0.6"


def test_the_picture_has_the_mean_of_each_arm_s_runs(tmp_path, monkeypatch):
    made = made_plan()
    store = filled(tmp_path, made, lambda run: [0.5, 0.6 + 0.01 * run.seed])
    crash(store, made, made.run("default", 1e-5, 2))
    drawn = []
    monkeypatch.setattr(
        figure, "draw_mean", lambda _, at, values, label, *style: drawn.append((at, values, label))
    )
    monkeypatch.setattr(figure, "save", lambda _, panels, title, path: path)
    figure.plot(report.language(made, store), tmp_path / "unused.png")
    assert len(drawn) == 8  # two arms in four panels
    at, values, label = drawn[0]
    assert label == "grpo"
    assert list(at) == [0, 1, 2]
    np.testing.assert_allclose(values, [[0.3, 0.5, 0.6], [0.3, 0.5, 0.61], [0.3, 0.5, 0.62]])
    at, values, label = drawn[-1]  # pass@k against tokens
    assert label == "default (1 failed)"
    assert list(at) == [0, 100, 200]
    np.testing.assert_allclose(values, [[0.5, 0.7, 0.8], [0.5, 0.7, 0.81]])


def test_an_arm_without_a_curve_is_in_the_picture_s_legend(tmp_path, monkeypatch):
    made = made_plan(rates=(1e-5,))
    store = filled(tmp_path, made, lambda run: [0.5])
    crash(store, made, *(made.run("default", 1e-5, seed) for seed in made.seeds))
    labels = []
    monkeypatch.setattr(
        figure,
        "save",
        lambda _, panels, title, path: labels.extend(
            panel.get_legend_handles_labels()[1] for panel in panels.flat
        ),
    )
    figure.plot(report.language(made, store), tmp_path / "unused.png")
    assert labels == [["grpo", "default (3 failed)"]] * 4


def test_without_matplotlib_the_report_has_no_picture_and_says_so(tmp_path, monkeypatch, capsys):
    made = made_plan()
    store = filled(tmp_path, made, lambda run: [0.5])
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    written = report.write_report(made, store, results=tmp_path, readme=None)
    assert [path.name for path in written] == ["language.json", "language.csv"]
    assert "matplotlib is not installed" in capsys.readouterr().out


def test_with_one_seed_or_one_rate_the_table_says_what_it_cannot_say(tmp_path):
    made = made_plan(rates=(1e-5,), seeds=(0,))
    data = report.language(made, filled(tmp_path, made, lambda run: [0.9]))
    text = report.markdown(json.loads(json.dumps(data)))
    assert "**was not tuned**" in text
    assert "no arm can be called better" in text
    assert data["arms"]["default"]["verdict"] is None


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(SystemExit, match="nothing to report"):
        report.language(made_plan(), Store(tmp_path / "none.jsonl", plan.keys(made_plan())))


def crash(store: Store, made: plan.Plan, *runs) -> None:
    for run in runs:
        store.add({"key": plan.key(run, made), **vars(run), "error": "a\nOSError: full"})


def marked(folder: Path) -> Path:
    readme = folder / "README.md"
    readme.write_text(f"before\n{report.MARK}\nold\n{report.MARK}\nafter\n")
    return readme


def test_failures_of_other_plans_are_not_counted(tmp_path):
    """A folder has the runs of older rates, seeds and arms as well."""
    made = made_plan()
    store = filled(tmp_path, made, lambda run: [0.5])
    crash(store, made, made.run("default", 2e-5, 8))  # of the rates' runs
    crash(store, made, made.run("grpo", 1e-5, 1))
    crash(store, made, made.run("branch", 1e-5, 0), made.run("grpo", 4e-5, 7))
    crash(store, made, made.run("grpo", 1e-5, 99), made.run("grpo", 2e-5, 0))
    data = report.language(made, store)
    assert data["rates"] == (1e-5, 2e-5)
    assert data["failed_runs"] == 2
    one_rate = made_plan(rates=(1e-5,))
    assert report.language(one_rate, store)["failed_runs"] == 1


def test_while_an_arm_is_missing_the_readme_stays_as_it_is(tmp_path, capsys):
    made = made_plan(arms=("default", "branch"))
    store = filled(tmp_path, made, lambda run: [0.5])
    readme = marked(tmp_path)
    before = readme.read_text()
    last = store.records.pop(plan.key(made.run("branch", 1e-5, 2), made))
    written = report.write_report(made, store, results=tmp_path / "results", readme=readme)
    assert readme not in written
    assert readme.read_text() == before
    said = f"Not done yet are `branch`. {readme} is left as it is."
    assert said in capsys.readouterr().out
    assert json.loads(written[0].read_text())["missing"] == ["branch"]
    store.add(last)
    assert readme in report.write_report(made, store, results=tmp_path / "results", readme=readme)
    assert "Not done yet" not in capsys.readouterr().out


@pytest.mark.parametrize("crashed", [("grpo",), ("default",), ("grpo", "default")])
def test_an_arm_whose_runs_all_failed_is_one_that_is_never_right(tmp_path, crashed):
    """The table says so, and the arms that ran are as they were."""
    made = made_plan(rates=(1e-5,))
    store = filled(tmp_path, made, lambda run: [0.5, 0.6])
    crash(store, made, *(made.run(arm, 1e-5, seed) for arm in crashed for seed in made.seeds))
    readme = marked(tmp_path)
    written = report.write_report(made, store, results=tmp_path, readme=readme)
    assert readme in written
    text, data = readme.read_text(), json.loads(written[0].read_text())
    for arm in made.arms:
        shown = f"| `{arm}` (3 failed) | 1e-05 | 0.000 | 0.000 |"
        assert (shown in text) == (arm in crashed)
        assert (f"| `{arm}` | 1e-05 | 0.600 | 0.800 |" in text) == (arm not in crashed)
    assert ("right in 0.300 of its samples" in text) == (len(crashed) == 1)
    assert "None" not in text
    if len(crashed) == 1:
        expected = "better" if crashed == ("grpo",) else "not shown"
        assert data["arms"]["default"]["verdict"] == expected


def test_the_readme_has_the_table_of_the_committed_results():
    readme = LANGUAGE / "README.md"
    committed, marked = RESULTS.exists(), report.MARK in readme.read_text(encoding="utf-8")
    assert committed == marked, "language.json and the README's table belong together"
    if committed:
        data = json.loads(RESULTS.read_text(encoding="utf-8"))
        assert between_marks(readme, mark=report.MARK) == report.markdown(data)
