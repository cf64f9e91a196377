"""The public functions: order, duplicates, bad arguments."""

import sys

import pytest

from trl_lambda.rewards import Grade, GraderPool, grade, grade_many


def test_a_grade_says_what_was_extracted() -> None:
    assert grade(r"So \boxed{ \frac12 }.", "0.5") == Grade(True, "ok", r"\frac12")
    assert grade("So 5.", "5") == Grade(False, "no_answer", None)
    assert grade(r"So \boxed{9^{9^{9^{9}}}}.", "5", timeout=0.5).reason == "timeout"


def test_grades_come_in_order_and_each_pair_is_judged_once(
    pool: GraderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = []
    judge_many = pool.judge_many

    def spy(tasks, timeout):
        judged.extend(tasks)
        return judge_many(tasks, timeout)

    monkeypatch.setattr(pool, "judge_many", spy)
    responses = [r"\boxed{\frac12}", r"\boxed{7}", r"\boxed{\frac13}", "none"] * 5
    grades = grade_many(responses, ["0.5"] * 20, pool=pool)
    assert [g.reason for g in grades] == ["ok", "wrong", "wrong", "no_answer"] * 5
    assert len(judged) == 3


def test_no_responses_give_no_grades() -> None:
    assert grade_many([], []) == []


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_a_senseless_timeout_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match=r"timeout is .*, expected a positive number of seconds"):
        grade("5", "5", timeout=timeout)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="2 responses but 1 golds"):
        grade_many(["a", "b"], ["5"])
    with pytest.raises(TypeError, match="a response is of type int, expected its text"):
        grade_many([5], ["5"])


def test_a_missing_math_verify_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ImportError, match="needs math-verify, which is not installed: pip install"):
        grade(r"\boxed{\frac12}", "0.5")
