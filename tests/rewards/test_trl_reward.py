"""The reward in TRL's signature."""

import inspect

import pytest

from trl_lambda.rewards import REASONS, math_reward

RIGHT, WRONG, NONE = r"So \boxed{\frac12}.", r"So \boxed{\frac13}.", "So it is."


def test_it_rewards_as_the_trainer_calls_it() -> None:
    extra, metrics = {}, {}
    rewards = math_reward(
        prompts=["p"] * 4,
        completions=[RIGHT, WRONG, NONE, RIGHT],
        completion_ids=[[1]] * 4,
        problem=["q"] * 4,
        answers=[["0.5"], ["0.5"], ["0.5"], [""]],
        trainer_state=None,
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
    )
    assert rewards == [1.0, 0.0, 0.0, None]
    assert extra == {
        "math_reason": ["ok", "wrong", "no_answer", "unparseable_gold"],
        "math_answer": [r"\frac12", r"\frac13", None, r"\frac12"],
    }
    assert set(metrics) == {f"math_reward/{reason}" for reason in REASONS}
    assert metrics["math_reward/ok"] == metrics["math_reward/unparseable_gold"] == 0.25
    assert metrics["math_reward/timeout"] == 0
    assert sum(metrics.values()) == 1


@pytest.mark.parametrize("column", ["answers", "answer", "solution"])
def test_each_gold_column_works_alone(column: str) -> None:
    assert math_reward([RIGHT, WRONG], **{column: ["0.5", "0.5"]}) == [1.0, 0.0]


def test_the_answers_come_before_the_worked_solution() -> None:
    assert math_reward([RIGHT], answer=["0.5"], solution=["Add: 1/4 + 1/4"]) == [1.0]


def test_a_missing_column_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"answers, answer, solution; .* has label, problem\."):
        math_reward([RIGHT], prompts=["p"], problem=["q"], label=["0.5"])
    with pytest.raises(ValueError, match="no further columns"):
        math_reward([RIGHT], prompts=["p"])


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        (RIGHT, 1.0),
        ([{"role": "assistant", "content": RIGHT}], 1.0),
        ([{"role": "assistant", "content": [{"type": "text", "text": RIGHT}]}], 1.0),
        (
            [
                {"role": "assistant", "content": WRONG},
                {"role": "tool", "content": "3"},
                {"role": "assistant", "content": RIGHT},
            ],
            1.0,
        ),
        ([{"role": "assistant", "content": None, "tool_calls": []}], 0.0),
        ([], 0.0),
        ("", 0.0),
    ],
)
def test_plain_and_conversational_completions(completion, reward: float) -> None:
    assert math_reward([completion], answer=["0.5"]) == [reward]


def test_a_lone_surrogate_does_not_break_the_table() -> None:
    extra = {}
    math_reward(["\\boxed{\ud800}"], answer=["5"], log_extra=extra.__setitem__)
    assert extra["math_answer"][0].encode("utf-8") == b"?"


def test_trl_sees_a_named_synchronous_function() -> None:
    assert math_reward.__name__ == "math_reward"
    assert not inspect.iscoroutinefunction(math_reward)
