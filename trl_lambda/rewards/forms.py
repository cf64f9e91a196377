r"""Answers that are no single expression: times of day, ratios, lettered choices, both signs."""

import re
from typing import NamedTuple

from trl_lambda.rewards.brackets import enclosed, split_top_level

_BLANK = r"(?:\s|\\[,;:! ]|\\q?quad(?![a-zA-Z]))"
_TEXT_OPENING = r"(?:\\(?:text(?:rm|bf|it|normal)?|mathrm|mathbf|mbox)\s*\{)"

_CLOCK = re.compile(
    rf"(?P<hour>\d{{1,2}})(?::(?P<minute>\d\d))?(?::(?P<second>\d\d))?{_BLANK}*"
    rf"(?:{_TEXT_OPENING}?\s*(?:(?P<half>[aApP])\.?\s*[mM]\.?|(?P<noon>noon)|(?P<night>midnight))"
    r"\s*\}?)?"
)
_NOON_OR_MIDNIGHT = re.compile(rf"{_TEXT_OPENING}?\s*(?:(?P<noon>noon)|midnight)\s*\}}?")
# 5am is five o'clock only with a blank or a capital.
_PRODUCT = re.compile(r"\d+[ap]m")
_COLON = re.compile(":")
_COMMA = re.compile(r"(?<!\\)[,;]")
_EQUALS = re.compile(r"(?<![<>!])=")

_LETTER = re.compile(
    rf"{_TEXT_OPENING}?\s*(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer):?\s*)?\(?\s*(?P<letter>[A-J])\s*\)?\s*[.:]?\s*\}}?"
)
_LETTER_AND_VALUE = re.compile(
    rf"(?:{_TEXT_OPENING}\s*(?:\((?P<in_text>[A-J])\)|(?P<dotted_text>[A-J])[.:)])"
    r"(?P<inside>[^{}]*)\}"
    r"|\(\s*(?P<in_parentheses>[A-J])\s*\)|(?P<dotted>[A-J])(?:\)|[.:](?=\s)))"
    rf"{_BLANK}*(?P<value>.*)",
    re.DOTALL,
)
_SECOND_CHOICE = re.compile(r"\(\s*[A-J]\s*\)|(?<![a-zA-Z])[A-J][.:)]|\b(?:or|and|not)\b")


class Clock(NamedTuple):
    """A time of day; `half` is a or p where the text says a.m. or p.m."""

    hour: int
    minute: int | None
    second: int
    half: str | None

    def same(self, other: "Clock") -> bool:
        """Whether both are the same time; where one lacks its half, also on a clock of 24 hours."""
        if (self.minute or 0, self.second) != (other.minute or 0, other.second):
            return False
        if (self.half is None) == (other.half is None):
            return (self.hour % 12, self.half) == (other.hour % 12, other.half)
        return self.hour == other.hour or self._hour_of_24() == other._hour_of_24()

    def _hour_of_24(self) -> int:
        if self.half is None:
            return self.hour
        return self.hour % 12 + (12 if self.half == "p" else 0)


def clock(text: str) -> Clock | None:
    """Reads a time of day: `10:30`, `10:30 a.m.`, `3 p.m.`, `noon`, or the bare hour."""
    named = _NOON_OR_MIDNIGHT.fullmatch(text)
    if named is not None:
        return Clock(12, None, 0, "p" if named["noon"] else "a")
    found = _CLOCK.fullmatch(text)
    if found is None or int(found["hour"]) > 24 or int(found["minute"] or 0) > 59:
        return None
    half = (found["half"] or "").lower() or ("p" if found["noon"] else None)
    minute = None if found["minute"] is None else int(found["minute"])
    return Clock(
        int(found["hour"]), minute, int(found["second"] or 0), "a" if found["night"] else half
    )


def is_time(text: str) -> bool:
    """Whether a text is a time: it has a.m. or p.m., or minutes such as `:05`, as no ratio has."""
    read = clock(text)
    if read is None or _PRODUCT.fullmatch(text):
        return False
    return read.half is not None or ":0" in text


def ratio_terms(text: str) -> list[str] | None:
    r"""The terms of a ratio of three or more, `1:2:3` or `a:b:c = 1:2:3`; `None` for another text.

    A ratio of two is left to the parser, which reads it as the fraction it equals.
    """
    terms = split_top_level(split_top_level(text, _EQUALS)[-1], _COLON)
    return terms if len(terms) > 2 and all(term.strip() for term in terms) else None


class Choice(NamedTuple):
    """The letter of a multiple choice, and the value beside it, which may be empty."""

    letter: str
    value: str


def choice(text: str) -> Choice | None:
    r"""Reads `B`, `\text{(B)}`, `Option B`, `\textbf{(B)}\ 5`, `(B) 5`, `B. 5`; else `None`."""
    alone = _LETTER.fullmatch(text)
    if alone is not None:
        return Choice(alone["letter"], "")
    found = _LETTER_AND_VALUE.fullmatch(text)
    if found is None:
        return None
    letter = found["in_text"] or found["dotted_text"] or found["in_parentheses"] or found["dotted"]
    value = f"{found['inside'] or ''} {found['value']}".strip()
    return Choice(letter, value) if value and not _SECOND_CHOICE.search(value) else None


def with_both_signs(text: str) -> str:
    r"""Writes `1\pm\sqrt2` as `1+\sqrt2, 1-\sqrt2`, in each element of a list."""
    if r"\pm" not in text and r"\mp" not in text:
        return text
    opening, content, closing = enclosed(text) if text.endswith(r"\}") else ("", text, "")
    if r"\{" in content:  # The parser reads both signs within braces.
        return text
    elements = []
    for element in split_top_level(content, _COMMA):
        if r"\pm" in element or r"\mp" in element:
            elements.append(element.replace(r"\pm", "+").replace(r"\mp", "-"))
            elements.append(element.replace(r"\pm", "-").replace(r"\mp", "+"))
        else:
            elements.append(element)
    return f"{opening}{','.join(elements)}{closing}"
