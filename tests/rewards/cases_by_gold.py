"""Answers graded by hand, by their gold: one file for each thing that can go wrong with them."""

from collections.abc import Iterator

import gold_numbers
import gold_symbols
import gold_units
from gold import ByGold

KINDS: dict[str, list[ByGold]] = gold_numbers.KINDS | gold_units.KINDS | gold_symbols.KINDS


def rows() -> Iterator[tuple[str, str, str, str]]:
    """The kind, gold, answer and reason of every answer."""
    reasons = ("ok", "wrong", "unparseable_answer")
    for kind, entries in KINDS.items():
        for gold, *lists in entries:
            for reason, answers in zip(reasons, lists, strict=False):
                yield from ((kind, gold, answer, reason) for answer in answers)
