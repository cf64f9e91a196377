"""Grading responses, one or many, and comparing answers with each other."""

import math
from collections.abc import Sequence
from importlib.util import find_spec

from trl_lambda.rewards.extraction import extract_answer
from trl_lambda.rewards.golds import Gold, gold_texts
from trl_lambda.rewards.pool import GraderPool, Task, default_pool
from trl_lambda.rewards.shortcut import shortcut
from trl_lambda.rewards.verdict import Grade, Reason

DEFAULT_TIMEOUT = 5.0


def grade(
    response: str, golds: Gold | Sequence[Gold], *, timeout: float = DEFAULT_TIMEOUT
) -> Grade:
    r"""Says whether a response ends in the right answer.

    Args:
        response: The text of a completion; the docstring of `trl_lambda.rewards` says what counts
            as its answer.
        golds: The right answer or several, any of which is right: LaTeX in `$…$` or not, a number,
            or a worked solution that marks its answer.
        timeout: Seconds of processor time that the comparison may take.

    Returns:
        The verdict, its reason and the text that was taken for the answer.

    Example:
        >>> grade(r"So the answer is \boxed{\frac{1}{2}}.", "0.5")
        Grade(correct=True, reason='ok', extracted='\\frac{1}{2}')
    """
    return grade_many([response], [golds], timeout=timeout)[0]


def grade_many(
    responses: Sequence[str],
    golds: Sequence[Gold | Sequence[Gold]],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    pool: GraderPool | None = None,
) -> list[Grade]:
    """Grades responses in parallel.

    Args:
        responses: The texts of the completions.
        golds: For each response what `grade` takes as `golds`.
        timeout: Seconds of processor time that one comparison may take, so that no verdict depends
            on what else the machine does; see the limits in this folder's README. One that overruns
            costs this time and the restart of a worker; the others do not wait for it unless all
            workers are held up.
        pool: The workers to use; those of this process by default.

    Returns:
        One grade a response, in order.

    Raises:
        ValueError: The two sequences differ in length, or the timeout is no positive number.
        TypeError: A response is no text, or a gold neither text nor number.
    """
    _check(responses, golds, timeout)
    answers = [extract_answer(response) for response in responses]
    tasks = [(gold_texts(gold), answer or "") for gold, answer in zip(golds, answers, strict=True)]
    plain = [_plain_reason(*task) for task in tasks]
    # Completions of a group often agree: each pair is compared once.
    hard = list(
        dict.fromkeys(task for task, reason in zip(tasks, plain, strict=True) if not reason)
    )
    judged = dict(zip(hard, _judge(hard, timeout, pool), strict=True))
    reasons = [reason or judged[task] for task, reason in zip(tasks, plain, strict=True)]
    return [
        Grade(reason == "ok", reason, answer)
        for reason, answer in zip(reasons, answers, strict=True)
    ]


def equivalent(first: str, second: str, *, timeout: float = DEFAULT_TIMEOUT) -> bool:
    """Whether two extracted answers say the same, as `equivalent_many` decides it."""
    return equivalent_many([(first, second)], timeout=timeout)[0]


def equivalent_many(
    pairs: Sequence[tuple[str, str]],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    pool: GraderPool | None = None,
) -> list[bool]:
    r"""Whether extracted answers say the same, for majority votes.

    An answer is right for a gold in one direction only (10 for the gold `10\%`, not the other way
    round); equivalence asks for both.

    Args:
        pairs: Answers as `Grade.extracted` gives them.
        timeout: Seconds of processor time that one comparison may take; one that overruns counts as
            unequal.
        pool: The workers to use; those of this process by default.
    """
    tasks = [((gold,), answer) for pair in pairs for gold, answer in (pair, pair[::-1])]
    reasons = [shortcut(*task) for task in tasks]
    hard = [task for task, reason in zip(tasks, reasons, strict=True) if not reason]
    judged = iter(_judge(hard, timeout, pool))
    equal = [(reason or next(judged)) == "ok" for reason in reasons]
    return [there and back for there, back in zip(equal[::2], equal[1::2], strict=True)]


def _check(responses: Sequence[str], golds: Sequence[object], timeout: float) -> None:
    if len(responses) != len(golds):
        raise ValueError(
            f"grade_many: {len(responses)} responses but {len(golds)} golds; expected one entry of "
            "golds (a text or a list of texts) for each response."
        )
    if not (math.isfinite(timeout) and timeout > 0):
        raise ValueError(f"grade: timeout is {timeout!r}, expected a positive number of seconds.")
    for response in responses:
        if not isinstance(response, str):
            raise TypeError(
                f"grade: a response is of type {type(response).__name__}, expected its text."
            )


def _plain_reason(golds: Sequence[str], answer: str) -> Reason | None:
    """The reason where no parser is needed; an empty answer is none."""
    if not any(golds):
        return "unparseable_gold"
    return shortcut(golds, answer) if answer else "no_answer"


def _judge(tasks: Sequence[Task], timeout: float, pool: GraderPool | None) -> list[Reason]:
    if not tasks:
        return []
    if find_spec("math_verify") is None:
        raise ImportError(
            "trl_lambda.rewards needs math-verify, which is not installed: "
            "pip install 'math-verify[antlr4_13_2]>=0.9'."
        )
    return (pool or default_pool()).judge_many(tasks, timeout)
