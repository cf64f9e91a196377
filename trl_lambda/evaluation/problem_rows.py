"""From a row to a problem and its golds, or to an error that says where the row stands."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from trl_lambda.rewards.golds import gold_texts
from trl_lambda.templates import Messages

Question: TypeAlias = str | Messages
SHOWN = 80  # characters of a value in an error


@dataclass(frozen=True)
class Problem:
    """A problem and the answers any of which is right.

    Attributes:
        problem: Its text; in a file of one's own it may also be a list of messages.
        answers: The golds; none where the reward needs none.
        columns: The row's other columns and its golds, for reward functions.
    """

    problem: Question
    answers: tuple[str, ...]
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def benchmark_problem(
    place: str, row: Mapping[str, Any], problem_column: str, answer_column: str
) -> Problem:
    """A benchmark's row, without blanks around problem and answers."""
    _require(place, row, problem_column, answer_column)
    problem = row[problem_column]
    _check_text(place, problem)
    answers = tuple(one.strip() for one in _answers(place, row[answer_column]))
    _check_answers(place, problem, answers)
    columns = {name: row[name] for name in row if name != problem_column}
    return Problem(problem.strip(), answers, columns | {"answers": list(answers)})


def own_problem(
    place: str,
    row: Mapping[str, Any],
    prompt_column: str,
    answer_column: str | None,
    need_answers: bool,
) -> Problem:
    """A row of a file of one's own, as `load_problem_set` describes it."""
    asked = answer_column or "answers"
    need_answers = need_answers or answer_column is not None
    _require(place, row, prompt_column, *([asked] if need_answers else []))
    problem = row[prompt_column]
    if isinstance(problem, list):
        _check_messages(place, problem)
    else:
        _check_text(place, problem)
    columns = {name: row[name] for name in row if name != prompt_column}
    if row.get(asked) is None and not need_answers:
        return Problem(problem, (), columns)
    answers = _answers(place, row[asked])
    _check_answers(place, problem, answers)
    if not any(gold_texts(answers)):
        raise ValueError(
            f"{place}: answers {_shown(answers)}: no gold can be read in them. Expected the answer "
            r"itself, or a worked solution that ends in \boxed{} or ####."
        )
    if answer_column is not None:
        columns["answers"] = [gold for gold in gold_texts(answers) if gold]
    return Problem(problem, answers, columns)


def _require(place: str, row: Mapping[str, Any], *names: str) -> None:
    if missing := set(names) - set(row):
        raise ValueError(
            f"{place}: no column {', '.join(sorted(missing))}; it has {', '.join(row)}. For files "
            "of your own prompt_column and answer_column name other columns."
        )


def _check_text(place: str, problem: Any) -> None:
    if not isinstance(problem, str) or not problem.strip():
        raise ValueError(
            f"{place}: problem {_shown(problem)} of type {type(problem).__name__}, expected a text "
            "that is not empty."
        )
    _check_unicode(place, problem)


def _check_unicode(place: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: the problem holds half a surrogate pair ({error}), which no tokenizer reads."
        ) from error


def _check_messages(place: str, messages: Sequence[Any]) -> None:
    for message in messages:
        fields = message if isinstance(message, Mapping) else {}
        if not (isinstance(fields.get("role"), str) and isinstance(fields.get("content"), str)):
            raise ValueError(
                f"{place}: problem {_shown(messages)}, expected a text, or a list of messages, "
                "each with role and content that are texts."
            )
        _check_unicode(place, fields["content"])
    if not messages:
        raise ValueError(f"{place}: problem [], expected at least one message.")


def _check_answers(place: str, problem: Question, answers: Sequence[str]) -> None:
    if not answers or not all(one.strip() for one in answers):
        raise ValueError(
            f"{place}: problem {_shown(problem)}, answers {_shown(answers)}; expected at least one "
            "answer, and none that is empty."
        )


def _answers(place: str, value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(_answer_text(place, one) for one in values)


def _answer_text(place: str, value: Any) -> str:
    """Text as it is; numbers without exponent, AMC's 142.0 as 142."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float | Decimal) and math.isfinite(value):
        whole = value == int(value)
        # repr may write 1e-07, which LaTeX reads as 1·e − 07.
        return str(int(value)) if whole else format(Decimal(str(value)), "f")
    raise ValueError(
        f"{place}: an answer is {_shown(value)} of type {type(value).__name__}, expected a text or "
        "a finite number; write it as LaTeX, in quotes."
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
