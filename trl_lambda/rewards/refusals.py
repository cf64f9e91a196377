r"""Answers that math-verify reads as the gold although they say something else.

Its parser drops number bases, takes a percentage for the number and for the fraction alike, adds
up numerals that stand side by side, and strips text after a number as a unit. Each check here
looks at the two texts alone; each is shown by cases in the tests.
"""

import re

from trl_lambda.rewards.spelling import TEXT
from trl_lambda.rewards.words import changes_number

_PERCENT = re.compile(
    r"\\?%|(?:\\text\{\s*)?\b(?:per\s?cent(?:age)?|pct)\b(?:\s*\})?", re.IGNORECASE
)

# A numeral and its base: 4210_5, 4210_{5}, (4210)_5, \text{4210}_5, 4210_{\text{five}}; but
# not the upper and lower index in P^{10}_{4}.
_BASE = re.compile(
    r"(?:(?<![\^\d])\d+|\(\d+\)|(?<!\^)\{\d+\})\s*_\s*(?:\\text)?\{?\s*(?:\\text\{)?\s*(\d+|[a-z]+)"
)
_BASE_NAMES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "twelve": "12",
    "sixteen": "16",
}

_SPACE = r"(?:\s|~|\\[,;: ]|\\q?quad)"
_NUMERAL_IN_PARENTHESES = r"\(\d+\)"
# Digits that belong to a command: \frac 1 2, \frac1{2}, \log_2 8, \log_2(8), \sin^2(3).
_ARGUMENTS = re.compile(
    r"\\[dtc]?frac\s*\d\s*|_\s*\d(?=\s)|\\log\s*_\s*\d|\\(?:sin|cos|tan|cot|sec|csc|ln|log)\s*\^\s*\d"
)
_SIDE_BY_SIDE = re.compile(
    rf"\d{_SPACE}+\d|[\d)]\s*{_NUMERAL_IN_PARENTHESES}|{_NUMERAL_IN_PARENTHESES}\s*\d"
    r"|\d\s*\{\d+\}|(?<![a-zA-Z}\]])\{\d+\}\s*\{\d+\}"
)

_TEXT = re.compile(TEXT)
_CONNECTOR = re.compile(r"^\s*(?:,|and\b|or\b)?\s*$|[\s,;]*\b(?:and|or)?\s*$")


def is_refused(gold: str, answer: str) -> bool:
    """Whether the answer's wording rules it out whatever the parser makes of it."""
    adds_percent = has_percent(answer) and not has_percent(gold)
    other_bases = _bases(gold) != _bases(answer)
    adds_numerals = _numerals_side_by_side(answer) and not _numerals_side_by_side(gold)
    return adds_percent or other_bases or adds_numerals or _hedges(answer, gold)


def has_percent(text: str) -> bool:
    """Whether the text states a percentage."""
    return _PERCENT.search(text) is not None


def without_percent(text: str) -> str:
    """The text without its percent signs and words."""
    return _PERCENT.sub("", text)


def _bases(text: str) -> list[str]:
    """The bases of the text's numerals, without ten: 11_{10} is 11."""
    bases = (_BASE_NAMES.get(base, base) for base in _BASE.findall(text))
    return [base for base in bases if base != "10"]


def _numerals_side_by_side(text: str) -> bool:
    return _SIDE_BY_SIDE.search(_ARGUMENTS.sub("#", text)) is not None


def _hedges(answer: str, gold: str) -> bool:
    r"""Whether a text beside the number, which counts as a unit, changes it: `6\text{ or 7}`."""
    gold = _squeezed(gold)
    return any(
        changes_number(_CONNECTOR.sub("", found[1])) and _squeezed(found[1]) not in gold
        for found in _TEXT.finditer(answer)
    )


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text).lower()
