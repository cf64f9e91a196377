"""Every gold of the usual sets is accepted, and no gold of the next problem."""

import re
from fractions import Fraction

import pytest

from trl_lambda.rewards import GraderPool, grade_many

ROWS = {
    "aime24": 30,
    "amc23": 83,
    "math500": 500,
    "olympiadbench": 675,
    "gsm8k": 8792,
    "asdiv": 1788,
}


@pytest.mark.parametrize("name", ROWS)
def test_every_gold_is_accepted_in_a_sentence(real_problems, pool: GraderPool, name: str) -> None:
    rows = real_problems(name)
    assert len(rows) == ROWS[name]
    for index in range(max(len(row["answers"]) for row in rows)):
        some = [row for row in rows if len(row["answers"]) > index]
        responses = [rf"So it must be \boxed{{{row['answers'][index]}}}. Done." for row in some]
        grades = grade_many(responses, [row["answers"] for row in some], pool=pool)
        refused = [r for r, grade in zip(responses, grades, strict=True) if not grade.correct]
        assert refused == []


@pytest.mark.parametrize("name", ROWS)
def test_the_parser_alone_accepts_every_gold(real_problems, pool: GraderPool, name: str) -> None:
    # Above, an answer with the gold's very text takes the shortcut.
    golds = {gold.strip("$. ") for row in real_problems(name) for gold in row["answers"]}
    tasks = [((gold,), gold) for gold in sorted(golds) if gold.count("$") == 0]
    assert len(tasks) > 0.9 * len(golds)
    reasons = pool.judge_many(tasks, timeout=10.0)
    refused = [task[1] for task, reason in zip(tasks, reasons, strict=True) if reason != "ok"]
    assert refused == []


@pytest.mark.parametrize("name", ROWS)
def test_the_next_problems_gold_is_rejected(real_problems, pool: GraderPool, name: str) -> None:
    golds = [row["answers"][0] for row in real_problems(name)]
    pairs = list(zip(golds, golds[1:] + golds[:1], strict=True))
    responses = [rf"\boxed{{{answer}}}" for _, answer in pairs]
    grades = grade_many(responses, [gold for gold, _ in pairs], pool=pool)
    accepted = [pair for pair, grade in zip(pairs, grades, strict=True) if grade.correct]
    assert [pair for pair in accepted if not _evidently_equal(*pair)] == []
    missed = [
        pair
        for pair, grade in zip(pairs, grades, strict=True)
        if _evidently_equal(*pair) and not grade.correct
    ]
    assert missed == []


def _evidently_equal(first: str, second: str) -> bool:
    """Equal as texts or as plain numbers: an oracle that knows no LaTeX."""
    first, second = (re.sub(r"[\s$,]|^x=", "", text) for text in (first, second))
    try:
        return Fraction(first) == Fraction(second)
    except ValueError:
        return first == second
