"""Gold answers as data sets write them, brought to one form."""

import numbers
from collections.abc import Sequence
from decimal import Decimal
from typing import TypeAlias

from trl_lambda.rewards.extraction import MAX_ANSWER_CHARS, bare, extract_answer

Gold: TypeAlias = str | int | float | None


def gold_texts(golds: Gold | Sequence[Gold]) -> tuple[str, ...]:
    r"""Returns the golds as bare LaTeX.

    Args:
        golds: One gold or several, any of which is right. A text may be the answer itself, in
            `$…$` or not, or a worked solution that ends in `\boxed{}` or `####` (the `solution` of
            MATH, the `answer` of GSM8K).

    Returns:
        The texts; `""` stands for a gold that is empty, `None` or too long to be one.

    Raises:
        TypeError: A gold is neither text nor a number.
    """
    if isinstance(golds, Sequence) and not isinstance(golds, (str, bytes)):
        return tuple(map(_gold_text, golds))
    return (_gold_text(golds),)


def _gold_text(gold: Gold) -> str:
    if gold is None:
        return ""
    if isinstance(gold, str):
        marked = extract_answer(gold)
        if marked is None and len(gold.strip()) > MAX_ANSWER_CHARS:
            return ""
        return marked or bare(gold)
    if isinstance(gold, bool) or not isinstance(gold, numbers.Real):
        raise TypeError(
            f"grade: a gold is {gold!r} of type {type(gold).__name__}, expected a text, a number "
            "or None. Write the answer as LaTeX."
        )
    number = float(gold)
    if isinstance(gold, numbers.Integral) or number.is_integer():
        return str(int(gold))
    # repr may write 1e-07, which LaTeX reads as 1·e − 07.
    return format(Decimal(repr(number)), "f") if number - number == 0 else ""
