"""Spellings that math-verify misreads, brought to the one it reads."""

import re

_GAP = r"(?:\s|~|\\[, ])"
_THOUSANDS = re.compile(rf"(?<![\d.])\d{{1,3}}(?:{_GAP}\d{{3}})+(?![\d.])")
_IMAGINARY = re.compile(r"(?<=\d)i\b")


def respell(text: str) -> str:
    r"""Returns the text with thousands closed up, `~` as a blank, the imaginary unit standing free.

    The parser reads `10\,000` as 10 · 000, and `~` not at all. It takes i for the imaginary unit
    only where the letter stands alone: `3i` would have a variable, and differ from `\frac{6}{2}i`.
    """
    joined = _THOUSANDS.sub(lambda found: re.sub(_GAP, "", found[0]), text)
    return _IMAGINARY.sub(" i", joined.replace("~", " "))
