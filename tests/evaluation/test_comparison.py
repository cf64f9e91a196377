"""Paired differences, and the tables."""

import io
import random
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from scripted_generator import PLAIN, ScriptedGenerator, problem_set, right_with, sums

from trl_lambda.evaluation import Sampling, compare, evaluate
from trl_lambda.evaluation.comparison import left_out
from trl_lambda.evaluation.tables import comparison_table, summary_table

PROBLEMS = sums(40)
GOLDS = {one.problem: one.answers[0] for one in PROBLEMS.problems}


def run(folder, chances: dict[str, float], *, problems=PROBLEMS, k=4, sampling=PLAIN):
    generator = ScriptedGenerator(right_with(chances, GOLDS))
    return evaluate(problems, generator, sampling, folder, k=k, progress=False)


def chances(shift: float) -> dict[str, float]:
    stream = random.Random(0)
    return {text: min(1.0, stream.choice([0.1, 0.5]) + shift) for text in GOLDS}


def text(table) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()


def test_a_better_model_is_told_from_an_equal_one(tmp_path):
    run(tmp_path / "a", chances(0.0))
    run(tmp_path / "b", chances(0.3))
    run(tmp_path / "c", chances(0.0), sampling=Sampling(template="none", seed=1))
    [better] = compare(tmp_path / "a", tmp_path / "b")
    [equal] = compare(tmp_path / "a", tmp_path / "c")
    assert [one.metric for one in better.differences] == ["avg", "pass@2", "pass@4", "maj@4"]
    gain, none = better.differences[0], equal.differences[0]
    assert gain.value == pytest.approx(gain.b - gain.a)
    assert gain.interval.low <= 0.3 <= gain.interval.high
    assert gain.excludes_zero
    assert not none.excludes_zero
    assert none.interval.low < 0 < none.interval.high
    assert better.changed == []
    assert equal.changed == [("seed", 0, 1)]


def test_problems_are_paired(tmp_path):
    """Each problem better by the same: far surer than the spread of problems would allow."""
    hard = {text: float(i % 2) for i, text in enumerate(GOLDS)}
    solved = hard | dict.fromkeys(list(GOLDS)[:16:2], 1.0)
    run(tmp_path / "a", hard)
    run(tmp_path / "b", solved)
    [change] = [one.differences[0] for one in compare(tmp_path / "a", tmp_path / "b")]
    assert change.value == pytest.approx(8 / 40)
    assert change.excludes_zero
    assert change.interval.high - change.interval.low < 0.3


def test_turned_round(tmp_path):
    run(tmp_path / "a", chances(0.0))
    run(tmp_path / "b", chances(0.2))
    [one], [other] = (
        compare(tmp_path / "a", tmp_path / "b"),
        compare(tmp_path / "b", tmp_path / "a"),
    )
    for there, back in zip(one.differences, other.differences, strict=True):
        assert there.value == pytest.approx(-back.value)
        assert there.interval == pytest.approx((-back.interval.high, -back.interval.low))
        assert there.excludes_zero == back.excludes_zero


def test_other_numbers_of_samples_share_what_they_can(tmp_path):
    run(tmp_path / "a", chances(0.0), k=2)
    run(tmp_path / "b", chances(0.0), k=4)
    [one] = compare(tmp_path / "a", tmp_path / "b")
    assert [change.metric for change in one.differences] == ["avg", "pass@2"]
    assert one.changed == [("n", 2, 4)]


def test_what_cannot_be_compared_is_refused(tmp_path):
    run(tmp_path / "a", chances(0.0))
    run(tmp_path / "limited", chances(0.0), problems=PROBLEMS.limit(30))
    changed = problem_set([(text, ["0"]) for text in GOLDS], "sums")
    run(tmp_path / "changed", chances(0.0), problems=changed)
    with pytest.raises(ValueError, match=r"has 40 problems in .* but 30 in"):
        compare(tmp_path / "a", tmp_path / "limited")
    with pytest.raises(ValueError, match="problem 1 of sums differs"):
        compare(tmp_path / "a", tmp_path / "changed")
    with pytest.raises(ValueError, match=r"has sums, .* has none; expected at least one in common"):
        compare(tmp_path / "a", tmp_path / "nowhere")
    records = tmp_path / "a" / "sums" / "records.jsonl"
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="run the evaluation to its end"):
        compare(tmp_path / "a", tmp_path / "a")
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:-3]))
    with pytest.raises(ValueError, match="has 39 problems with 4 samples, expected 40 with 4"):
        compare(tmp_path / "a", tmp_path / "a")


def test_benchmarks_of_one_folder_alone_are_named(tmp_path):
    other = problem_set([(text, [gold]) for text, gold in GOLDS.items()], "other")
    run(tmp_path / "a", chances(0.0))
    run(tmp_path / "b", chances(0.0))
    run(tmp_path / "b", chances(0.0), problems=other)
    assert [one.name for one in compare(tmp_path / "a", tmp_path / "b")] == ["sums"]
    assert left_out(tmp_path / "a", tmp_path / "b") == ["other"]


SETTINGS = "temperature=0.6 top_p=0.95 max_tokens=3000 template=none seed=0 n=4"


def test_every_table_says_its_settings(tmp_path):
    summary = run(tmp_path / "a", chances(0.0))
    run(tmp_path / "b", chances(0.2), sampling=Sampling(template="none", temperature=0.7))
    shown = text(summary_table(summary))
    assert SETTINGS in shown
    assert "sums, N=40" in shown
    low, high = summary["metrics"]["pass@2"]["interval"]
    value = summary["metrics"]["pass@2"]["value"]
    assert f"{100 * value:.1f} %" in shown
    assert f"{100 * low:.1f} … {100 * high:.1f}" in shown
    for name in ("avg@4", "pass@4", "maj@4", "truncated", "format", "tokens, mean", "graded wrong"):
        assert name in shown
    compared = text(comparison_table(compare(tmp_path / "a", tmp_path / "b")[0]))
    assert f"A: {SETTINGS}" in compared
    assert f"B: {SETTINGS.replace('0.6', '0.7')}" in compared
    assert "temperature: 0.6 in A, 0.7 in B" in compared


def test_a_table_marks_intervals_that_few_problems_made(tmp_path):
    few = {text: float(i < 3) for i, text in enumerate(GOLDS)}
    assert "* may be too short" in text(summary_table(run(tmp_path / "a", few)))
    assert "*" not in text(summary_table(run(tmp_path / "b", chances(0.2))))


def test_a_table_of_one_problem(tmp_path):
    summary = run(tmp_path / "a", chances(0.0), problems=PROBLEMS.limit(1))
    assert "one problem" in text(summary_table(summary))


def test_comparing_needs_no_torch():
    script = "import sys, trl_lambda.evaluation.tables; sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[2])
    assert run.returncode == 0
