"""Gold answers as data sets write them, brought to one form."""

import numbers
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from trl_lambda.rewards.extraction import MAX_ANSWER_CHARS, bare, extract_answer

Gold: TypeAlias = str | int | float | Decimal | Fraction | None

# Digits that a binary number surely holds; those beyond are its noise: 0.30000000000000004.
_DIGITS_OF_DOUBLE = 15
_DIGITS_OF_SINGLE = 7


def gold_texts(golds: Gold | Sequence[Gold]) -> tuple[str, ...]:
    r"""Returns the golds as bare LaTeX.

    Args:
        golds: One gold or several, any of which is right. A text may be the answer itself, in
            `$…$` or not, or a worked solution that ends in `\boxed{}` or `####` (the `solution` of
            MATH, the `answer` of GSM8K). A number may come from Python, NumPy or PyTorch.

    Returns:
        The texts; `""` stands for a gold that is empty, `None` or too long to be one.

    Raises:
        TypeError: A gold is neither text nor a number.
    """
    listed = isinstance(golds, Sequence) and not isinstance(golds, (str, bytes))
    if listed or getattr(golds, "ndim", 0) == 1:
        return tuple(map(_gold_text, golds))
    return (_gold_text(golds),)


def _gold_text(gold: Any) -> str:
    if gold is None:
        return ""
    if isinstance(gold, str):
        marked = extract_answer(gold)
        if marked is None and len(gold.strip()) > MAX_ANSWER_CHARS:
            return ""
        return marked or bare(gold)
    digits = _DIGITS_OF_DOUBLE
    if getattr(gold, "ndim", None) == 0 and hasattr(gold, "dtype"):  # PyTorch's or NumPy's
        digits = digits if gold.dtype.itemsize > 4 else _DIGITS_OF_SINGLE
        gold = gold.item()
    return _number_text(gold, digits)


def _number_text(number: Any, digits: int) -> str:
    if isinstance(number, bool) or not isinstance(number, (numbers.Real, Decimal)):
        raise TypeError(
            f"grade: a gold is {number!r} of type {type(number).__name__}, expected a text, a "
            "number or None. Write the answer as LaTeX."
        )
    if isinstance(number, numbers.Rational):
        too_long = max(abs(number.numerator), number.denominator) >= 10**MAX_ANSWER_CHARS
        return "" if too_long else str(Fraction(number))
    if number - number != 0:  # Infinite, or not a number.
        return ""
    if isinstance(number, Decimal):
        return format(number, "f") if abs(number.adjusted()) < MAX_ANSWER_CHARS else ""
    if float(number).is_integer():
        return str(int(number))
    # Written out: LaTeX would read 1e-07 as 1·e − 07.
    return format(Decimal(f"{float(number):.{digits}g}"), "f")
