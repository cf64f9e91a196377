"""Metrics over steps, runs over seeds."""

import math
import statistics
from pathlib import Path

import pytest

from trl_lambda.report import Run
from trl_lambda.report.curves import charts, half_interval, same_but_for_seed


def run(name="run", values=(), metric="reward", **settings):
    logs = [{"step": step, "metrics": {metric: value}} for step, value in enumerate(values)]
    return Run(name=name, path=Path(name), meta={"settings": settings}, logs=logs)


def reward_lines(*runs):
    return next(chart for chart in charts(list(runs)) if chart.metric == "reward").lines


def test_runs_that_differ_in_the_seed_alone_come_together():
    a1, a2, b = run("a-seed-1", seed=1), run("a-seed-2", seed=2), run("b", seed=1, decay=0.0)
    assert same_but_for_seed([a1, b, a2]) == {"a (2 seeds)": [a1, a2], "b": [b]}


def test_runs_whose_seed_is_not_known_stay_apart():
    assert list(same_but_for_seed([run("a"), run("a")])) == ["a", "a [2]"]


def test_mean_and_student_interval_by_hand():
    (line,) = reward_lines(run(values=[1.0], seed=1), run(values=[3.0], seed=2))
    assert line.mean == [2.0]
    assert line.high[0] - 2 == pytest.approx(12.7062 * math.sqrt(2) / math.sqrt(2))
    assert 2 - line.low[0] == pytest.approx(line.high[0] - 2)


@pytest.mark.parametrize(("n", "quantile"), [(10, 2.2622), (11, 2.2281), (31, 2.0423)])
def test_student_quantiles(n, quantile):
    """Between the table and the expansion, against printed tables."""
    values = [float(value) for value in range(n)]
    standard_error = statistics.stdev(values) / math.sqrt(n)
    assert half_interval(values) / standard_error == pytest.approx(quantile, rel=1e-4)


def test_a_single_run_has_no_interval():
    (line,) = reward_lines(run(values=[1.0, 2.0], seed=1))
    assert (line.steps, line.mean, line.low, line.high) == ([0, 1], [1.0, 2.0], None, None)


def test_seeds_are_averaged_where_all_have_logged():
    (line,) = reward_lines(run(values=[1.0, 2.0], seed=1), run(values=[3.0], seed=2))
    assert line.steps == [0]


def test_null_is_no_value_and_a_metric_that_nobody_logged_has_no_lines():
    assert reward_lines(run(values=[None])) == []
    assert [chart.metric for chart in charts([run()])][1] == "rewards/*/mean"


def test_each_reward_function_has_its_chart_and_evaluations_their_line():
    made = run(values=[0.5], metric="eval_rewards/exact/mean")
    (chart,) = (chart for chart in charts([made]) if chart.lines)
    assert (chart.metric, chart.title) == ("rewards/exact/mean", "Accuracy: exact")
    assert chart.lines[0].held_out
