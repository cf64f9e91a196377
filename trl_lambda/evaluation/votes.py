"""Majority votes: which answers of a problem say the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from trl_lambda.evaluation.records import Record
from trl_lambda.rewards import GraderPool, equivalent_many

MANY = 64  # answers of one problem; comparing fewer with each other costs little


@dataclass
class AnswerClass:
    """Answers that say the same, by the text met first; its samples and its verdict."""

    text: str
    correct: bool
    count: int


def count_votes(
    groups: Sequence[Sequence[Record]], *, pool: GraderPool | None = None
) -> list[list[tuple[int, bool]]]:
    """Counts the votes for each answer of each problem, equivalent answers together.

    A sample without an answer has no vote. Answers of different verdicts are never the same. Where
    all answers of a problem have one verdict, the vote is decided and nothing is compared; where
    many are left, comparing also ends once they could not overtake the leading class together.

    Args:
        groups: The records of each problem.
        pool: The workers that compare; those of this process by default.

    Returns:
        For each problem what `metrics.maj_at_k` takes.
    """
    open_answers = [_by_text(group) for group in groups]
    classes: list[list[AnswerClass]] = [[] for _ in groups]
    _settle(classes, open_answers)
    while any(open_answers):
        # Each problem's first answer that is in no class takes in what equals it.
        _close_one_class(classes, open_answers, pool)
        _settle(classes, open_answers)
    return [[(answer.count, answer.correct) for answer in found] for found in classes]


def _settle(classes: list[list[AnswerClass]], waiting: list[list[AnswerClass]]) -> None:
    """Moves what waits of the problems whose vote is decided, as classes of their own."""
    for found, answers in zip(classes, waiting, strict=True):
        if _is_decided(found, answers):
            found.extend(answers)
            answers.clear()


def _is_decided(found: Sequence[AnswerClass], waiting: Sequence[AnswerClass]) -> bool:
    """Whether comparing what waits could not change which verdict leads."""
    if len({answer.correct for answer in [*found, *waiting]}) < 2:
        return True
    if len(waiting) < MANY:
        return False
    together = [sum(one.count for one in waiting if one.correct is v) for v in (True, False)]
    return max((answer.count for answer in found), default=0) > max(together)


def _by_text(group: Sequence[Record]) -> list[AnswerClass]:
    """The answers of a problem, those of the same text as one, the most frequent first."""
    found: dict[tuple[str, bool], AnswerClass] = {}
    for record in group:
        if record.extracted is not None:
            key = (record.extracted, record.correct)
            found.setdefault(key, AnswerClass(*key, count=0)).count += 1
    return sorted(found.values(), key=lambda answer: -answer.count)


def _close_one_class(
    classes: list[list[AnswerClass]], waiting: list[list[AnswerClass]], pool: GraderPool | None
) -> None:
    """Moves a class of every problem from `waiting` to `classes`, with one call to the workers."""
    firsts = [answers.pop(0) if answers else None for answers in waiting]
    tasks = [
        (index, first, other)
        for index, first in enumerate(firsts)
        if first is not None
        for other in waiting[index]
        if other.correct == first.correct
    ]
    same = equivalent_many([(first.text, other.text) for _, first, other in tasks], pool=pool)
    for (index, first, other), equal in zip(tasks, same, strict=True):
        if equal:
            first.count += other.count
            waiting[index].remove(other)
    for found, first in zip(classes, firsts, strict=True):
        if first is not None:
            found.append(first)
