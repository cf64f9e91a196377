"""Paired differences, and the tables."""

import io
import random
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from scripted_generator import PLAIN, ScriptedGenerator, problem_set, right_with, sums

from trl_lambda.evaluation import Sampling, averages, compare, evaluate
from trl_lambda.evaluation.comparison import average_differences, left_out
from trl_lambda.evaluation.intervals import average_interval
from trl_lambda.evaluation.tables import (
    average_comparison_tables,
    comparison_table,
    overall_tables,
    print_tables,
    summary_table,
)

PROBLEMS = sums(40)
GOLDS = {one.problem: one.answers[0] for one in PROBLEMS.problems}


def run(folder, chances: dict[str, float], *, problems=PROBLEMS, k=4, sampling=PLAIN, **options):
    generator = ScriptedGenerator(right_with(chances, GOLDS))
    generator.settings |= options.pop("settings", {})
    return evaluate(problems, generator, sampling, folder, k=k, progress=False, **options)


def named(name: str, count: int):
    """The first problems, as a set of this name."""
    rows = [(one.problem, one.answers) for one in PROBLEMS.problems[:count]]
    return problem_set(rows, name)


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
    with pytest.raises(
        ValueError, match=r"problem 1 of sums differs: answers is \('2',\) in .* and \('0',\) in"
    ):
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


def test_one_problem_is_compared_without_an_interval(tmp_path):
    one = PROBLEMS.limit(1)
    run(tmp_path / "a", dict.fromkeys(GOLDS, 0.0), problems=one)
    run(tmp_path / "b", dict.fromkeys(GOLDS, 1.0), problems=one)
    [compared] = compare(tmp_path / "a", tmp_path / "b")
    assert [row.metric for row in compared.differences] == ["avg", "pass@2", "pass@4", "maj@4"]
    for row in compared.differences:
        assert (row.a, row.b, row.value) == (0.0, 1.0, 1.0)
        assert (row.interval, row.bootstrap, row.excludes_zero) == (None, None, False)
    shown = text(comparison_table(compared))
    assert shown.count("one problem") == 4
    assert "100.0 %" in shown


def test_tables_say_model_adapter_and_engine(tmp_path):
    made = {"engine": "vllm", "model": "Qwen/Qwen2.5", "adapter": "runs/a/best", "dtype": "auto"}
    summary = run(tmp_path / "a", chances(0.0), settings=made)
    run(tmp_path / "b", chances(0.0), settings=made | {"adapter": None, "engine": "transformers"})
    [compared] = compare(tmp_path / "a", tmp_path / "b")
    a = "model=Qwen/Qwen2.5 adapter=runs/a/best engine=vllm dtype=auto"
    b = "model=Qwen/Qwen2.5 adapter=none engine=transformers dtype=auto"
    assert a in text(summary_table(summary))
    assert a in text(comparison_table(compared))
    assert b in text(comparison_table(compared))
    assert "generator.engine: 'vllm' in A, 'transformers' in B" in text(comparison_table(compared))
    assert "model=not named" in text(summary_table(run(tmp_path / "c", chances(0.0))))


def test_b_less_a_need_not_be_in_the_middle_and_the_table_says_so(tmp_path):
    run(tmp_path / "a", dict.fromkeys(GOLDS, 0.0))
    run(tmp_path / "b", dict.fromkeys(GOLDS, 1.0))
    [compared] = compare(tmp_path / "a", tmp_path / "b")
    gain = compared.differences[0]
    assert gain.interval.low <= gain.value <= gain.interval.high
    assert gain.value - sum(gain.interval) / 2 > 0.04
    assert "B − A need not lie in the middle of its interval" in text(comparison_table(compared))


def test_all_benchmarks_in_one_table_with_their_average(tmp_path):
    easy, hard = dict.fromkeys(GOLDS, 0.8), dict.fromkeys(GOLDS, 0.3)
    summaries = [
        run(tmp_path, easy, problems=named("easy", 40), k=4, settings={"model": "m"}),
        run(tmp_path, hard, problems=named("hard", 12), k=2, settings={"model": "m"}),
    ]
    first, second = summaries[0]["metrics"]["avg@4"], summaries[1]["metrics"]["avg@2"]
    found = averages(summaries)
    assert list(found) == ["avg"]
    assert found["avg"]["value"] == pytest.approx((first["value"] + second["value"]) / 2)
    low, high = found["avg"]["interval"]
    assert low < found["avg"]["value"] < high
    assert high - low < second["interval"][1] - second["interval"][0]
    [table] = overall_tables(summaries)
    shown = text(table)
    assert "model=m adapter=none engine=script" in shown
    assert "temperature=0.6 top_p=0.95 max_tokens=3000 template=none seed=0 n=K" in shown
    lines = {line.split("│")[1].strip(): line for line in shown.splitlines() if "│" in line}
    assert set(lines) == {"easy", "hard", "average"}
    assert f"{100 * found['avg']['value']:.1f} %" in lines["average"]
    assert f"{100 * low:.1f} … {100 * high:.1f}" in lines["average"]
    for name, count, k, metric in (("easy", 40, 4, first), ("hard", 12, 2, second)):
        cells = [cell.strip() for cell in lines[name].split("│")]
        assert cells[2:5] == [str(count), str(k), f"{100 * metric['value']:.1f} %"]


def test_without_an_interval_of_each_the_average_has_none_and_says_why(tmp_path):
    summaries = [
        run(tmp_path, chances(0.0), problems=named("many", 12)),
        run(tmp_path, chances(0.0), problems=named("one", 1)),
    ]
    assert averages(summaries)["avg"]["no_interval"] == "a benchmark has none: one problem"
    assert "interval" not in averages(summaries)["avg"]
    assert "a benchmark has none: one problem" in " ".join(
        line for line in text(overall_tables(summaries)[0]).split() if line != "│"
    )


def test_the_average_of_the_differences(tmp_path):
    for folder, shift in (("a", 0.0), ("b", 0.3)):
        run(tmp_path / folder, chances(shift), problems=named("one", 30))
        run(tmp_path / folder, chances(shift), problems=named("two", 20), k=2)
    compared = compare(tmp_path / "a", tmp_path / "b")
    [average] = average_differences(compared)
    rows = [one.differences[0] for one in compared]
    assert average.metric == "avg"
    assert average.value == pytest.approx(sum(row.value for row in rows) / 2)
    assert average.value == pytest.approx(average.b - average.a)
    expected = average_interval([row.value for row in rows], [row.interval for row in rows])
    assert average.interval == pytest.approx(expected)
    [table] = average_comparison_tables(compared)
    shown = text(table)
    assert "B − A need not lie in the middle" in shown
    assert f"{100 * average.value:.1f} %" in next(x for x in shown.splitlines() if "average" in x)
    assert average_differences(compared[:1]) == []


def brevity(completions, **columns):
    """A reward of any size, larger for the right answers, which are shorter."""
    return [20.0 - len(text) for text in completions]


def test_rewards_are_compared(tmp_path):
    options = {"rewards": {"brevity": brevity}}
    summary = run(tmp_path / "a", chances(0.0), **options)
    run(tmp_path / "b", chances(0.4), **options)
    assert list(summary["metrics"]) == ["brevity avg@4"]
    assert "format" not in summary
    [compared] = compare(tmp_path / "a", tmp_path / "b")
    [gain] = compared.differences
    assert (gain.metric, gain.is_share) == ("brevity avg", False)
    assert gain.interval.low < gain.value < gain.interval.high
    assert gain.excludes_zero
    assert f"{gain.value:.4g}" in text(comparison_table(compared))
    assert "%" not in text(comparison_table(compared)).split("95 %")[1]
    [same] = compare(tmp_path / "a", tmp_path / "a")
    assert same.differences[0].no_interval == "all problems equal"
    run(tmp_path / "math", chances(0.0))
    with pytest.raises(ValueError, match=r"has brevity avg in .* and avg, pass@2.* in common"):
        compare(tmp_path / "a", tmp_path / "math")


@pytest.mark.parametrize("damage", [b"", b"{", b'{"n": 4}', b"[]", b"\xff"])
def test_a_damaged_summary_is_named(damage, tmp_path):
    run(tmp_path / "a", chances(0.0))
    (tmp_path / "a" / "sums" / "summary.json").write_bytes(damage)
    with pytest.raises(ValueError, match=r"sums/summary\.json: no"):
        compare(tmp_path / "a", tmp_path / "a")


def test_no_records_at_all_are_named(tmp_path):
    run(tmp_path / "a", chances(0.0))
    (tmp_path / "a" / "sums" / "records.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match="sums has no records; run the evaluation to its end"):
        compare(tmp_path / "a", tmp_path / "a")


def test_long_names_stay_whole_on_a_narrow_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    path = "/".join(["a_long_folder"] * 20)
    print_tables([summary_table(run(tmp_path, chances(0.0), settings={"model": path}))])
    assert f"model={path} adapter=none" in capsys.readouterr().out


def test_comparing_needs_no_torch():
    script = "import sys, trl_lambda.evaluation.tables; sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[2])
    assert run.returncode == 0
