"""Reward functions in evaluation: called as in training, checked before anything is sampled."""

import sys

import pytest
import torch
from scripted_generator import PLAIN, ScriptedGenerator, problem_set, right_sums, sums

from trl_lambda.evaluation import Problem, Sampling, evaluate, prepare, read_records
from trl_lambda.evaluation.scoring import MATH, check_rewards, reward_batch
from trl_lambda.rewards import math_reward


def run(problems, rewards, folder, **options):
    generator = ScriptedGenerator(right_sums)
    return evaluate(problems, generator, PLAIN, folder, k=2, rewards=rewards, progress=False)


def records(folder):
    return read_records(folder / "sums" / "records.jsonl")


def columns_of(problems, **columns):
    """The problems with these columns, one value a problem."""
    rows = [
        Problem(one.problem, one.answers, {name: values[i] for name, values in columns.items()})
        for i, one in enumerate(problems.problems)
    ]
    return type(problems)(**{**vars(problems), "problems": tuple(rows)})


def test_a_function_gets_what_training_gives_it(tmp_path):
    calls = []

    def reward(prompts, completions, completion_ids, target, trainer_state, log_extra, **rest):
        calls.append((prompts, completions, completion_ids, target, trainer_state.global_step))
        log_extra("shown", completions)
        rest["log_metric"]("mean", 1.0)
        return [float(one) for one in target]

    problems = columns_of(sums(3), target=[5, 6, 7], answers=[["0"], ["2"], ["4"]])
    run(problems, {"mine": reward}, tmp_path)
    [(prompts, completions, ids, target, step)] = calls
    assert prompts == ["0+0=", "0+0=", "1+1=", "1+1=", "2+2=", "2+2="]
    assert all(text.startswith(r"\boxed{") for text in completions)
    assert [len(one) for one in ids] == [len(text) for text in completions]
    assert (target, step) == ([5, 5, 6, 6, 7, 7], 0)
    found = records(tmp_path)
    assert [one.rewards for one in found] == [{"mine": float(value)} for value in target]
    assert {(one.correct, one.reason, one.extracted) for one in found} == {(None, None, None)}


def test_messages_reach_a_function_as_messages():
    seen = {}

    def reward(prompts, completions, **columns):
        seen.update(prompts=prompts, completions=completions)
        return [1.0]

    messages = [{"role": "user", "content": "1+1="}]
    [completion] = ScriptedGenerator(lambda *_: "two").generate([_request()], Sampling())
    reward_batch({"r": reward}, sums(1).problems, [messages], [completion])
    assert seen["prompts"] == [messages]
    assert seen["completions"] == [[{"role": "assistant", "content": "two"}]]


def _request():
    from trl_lambda.evaluation import Request

    return Request("1+1=", 0)


def test_the_math_reward_and_another_together(tmp_path):
    plain = run(sums(3), MATH, tmp_path / "plain")
    both = run(sums(3), {"math": math_reward, "length": _length}, tmp_path / "both")
    assert both["metrics"].items() > plain["metrics"].items()
    assert list(both["metrics"])[-1] == "length avg@2"
    assert both["reasons"] == plain["reasons"]
    assert both["settings"]["rewards"] == ["math", "length"]


def _length(completions, **columns):
    return [len(text) / 3 for text in completions]


def test_async_functions(tmp_path):
    async def reward(completions, **columns):
        return [0.5] * len(completions)

    summary = run(sums(2), {"slow": reward}, tmp_path)
    assert summary["metrics"]["slow avg@2"] == {
        "value": 0.5,
        "unit": "reward",
        "no_interval": "all problems equal",
    }


def test_samples_that_are_not_judged_and_numbers_of_other_kinds(tmp_path):
    def reward(completions, **columns):
        return [None, float("nan"), torch.tensor(2.0), 3, True, 0.0]

    summary = run(sums(3), {"r": reward}, tmp_path)
    assert [one.rewards["r"] for one in records(tmp_path)] == [None, None, 2.0, 3.0, 1.0, 0.0]
    assert summary["metrics"]["r avg@2"]["value"] == pytest.approx((2.5 + 0.5) / 2)
    assert summary["metrics"]["r avg@2"]["problems_judged"] == 2


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([1.0], ValueError, "reward r gave 1 rewards as a list, expected one for each of 4"),
        (None, ValueError, "reward r gave 0 rewards as a NoneType"),
        (["a"] * 4, ValueError, "reward r gave 'a' of type str, expected numbers, or None"),
        ([float("inf")] * 4, ValueError, "reward r gave inf, expected finite numbers"),
        (KeyError("target"), RuntimeError, "reward r failed: KeyError: 'target'. It was called"),
    ],
)
def test_functions_that_fail_are_named(given, error, message, tmp_path):
    def reward(completions, **columns):
        if isinstance(given, Exception):
            raise given
        return given

    with pytest.raises(error, match=message):
        run(sums(2), {"r": reward}, tmp_path)


def test_what_would_fail_is_found_before_sampling(monkeypatch, tmp_path):
    def needs_target(completions, target, **columns):
        return [0.0] * len(completions)

    def takes_no_more(completions):
        return [0.0] * len(completions)

    generator = ScriptedGenerator(right_sums)

    def check(problems, rewards):
        prepare(problems, generator, PLAIN, tmp_path, rewards=rewards)

    with pytest.raises(ValueError, match="reward r: missing a required argument: 'target'"):
        check(sums(2), {"r": needs_target})
    check(columns_of(sums(2), target=[1, 2]), {"r": needs_target})
    with pytest.raises(ValueError, match="reward r: got an unexpected keyword argument"):
        check(sums(2), {"r": takes_no_more})
    with pytest.raises(ValueError, match="rewards is empty"):
        check(sums(2), {})
    with pytest.raises(ValueError, match="made by hand: some problems have no answers"):
        check(problem_set([("a", ["1"]), ("b", [])]), MATH)
    monkeypatch.setitem(sys.modules, "math_verify", None)
    monkeypatch.setattr("trl_lambda.evaluation.scoring.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs math-verify"):
        check(sums(2), MATH)
    assert generator.asked == []


def test_trls_own_rewards(tmp_path):
    """They read a column `solution` and want messages."""
    from trl.rewards import accuracy_reward, think_format_reward

    check_rewards({"think": think_format_reward}, sums(1).problems, "sums")
    with pytest.raises(ValueError, match="missing a required argument: 'solution'"):
        check_rewards({"accuracy": accuracy_reward}, sums(1).problems, "sums")
    problems = columns_of(sums(2), solution=[r"$\boxed{0}$", r"$\boxed{2}$"]).problems
    texts = iter([r"It is $\boxed{0}$.", r"It is $\boxed{7}$."])
    generator = ScriptedGenerator(lambda *_: next(texts))
    completions = generator.generate([_request()] * 2, Sampling())
    prompts = [[{"role": "user", "content": one.problem}] for one in problems]
    given = reward_batch({"accuracy": accuracy_reward}, problems, prompts, completions)
    assert given == [{"accuracy": 1.0}, {"accuracy": 0.0}]


def test_other_columns_are_other_settings(tmp_path):
    first = columns_of(sums(2), target=[1, 2])
    run(first, {"r": _length}, tmp_path)
    with pytest.raises(ValueError, match="columns_sha256"):
        run(columns_of(sums(2), target=[1, 3]), {"r": _length}, tmp_path)
    with pytest.raises(ValueError, match=r"rewards: \['r'\], now None"):
        run(first, MATH, tmp_path)
