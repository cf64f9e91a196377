r"""Numerals as people write them, brought to the spelling that the parser reads as one number.

| Written | Respelled |
|---|---|
| `58,500`, `58{,}500`, `10,\!080`, `10\,080`, `10 080` | `58500`, `10080` |
| `2.3 \times 10^{8}`, `2.3*10^8`, `2.3e8` | `2.3E8` |
| `0.1\overline{6}`, `0.\dot{3}`, `0.1(6)`, `0.1666...` | `(\frac{15}{90})`, … |
| `3 1/2` | `3\frac{1}{2}` |
| `10^-12` | `10^{-12}` |
| `5\text{ million}`, where the gold has such a word | `5\times10^{6}` |

The parser would read the second number of `58,500` as another answer, the letter of `2.3e8` as
Euler's number, and `3 1/2` as 3 + 1/2 or 3 · 1/2 as it comes.
"""

import re

from trl_lambda.rewards.brackets import in_list
from trl_lambda.rewards.spelling import UPRIGHT

_GAP = r"(?:\s|~|\\[, ])"
_GROUPED_BY_GAPS = re.compile(rf"(?<![\d.])\d{{1,3}}(?:{_GAP}\d{{3}})+(?![\d.])")
# No list is written with these two: they only close up the space after a comma.
_CLOSED_COMMA = re.compile(r"(?<=\d)(?:\{\s*,\s*\}|,\s*\\!)\s*(?=\d{3}(?!\d))")
_GROUPED_BY_COMMAS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")

_EXPONENT = r"(?:\{\s*(?P<braced>[+-]?\s*\d{1,4})\s*\}|(?P<bare>[+-]?\d{1,4}))"
_TIMES_TEN = re.compile(
    r"(?<![\d.])(?P<mantissa>\d+(?:\.\d+)?|\.\d+)\s*(?:\\times|\\cdot|\*|[xX](?=\s*1))\s*"
    rf"(?:10|\{{10\}})\s*\^\s*{_EXPONENT}(?![\d^_!.])"
)
_E_NOTATION, _CAPITAL_E_NOTATION = (
    re.compile(rf"(?<![\w.\\])(?P<mantissa>\d+(?:\.\d*)?|\.\d+)[{letters}]{_EXPONENT}(?![\d.^_!])")
    for letters in ("eE", "E")
)
# Euler's number, which stands in no e-notation: 2e, e^2, e-2.
_EULER = re.compile(r"(?<![\w\\.])e(?![a-zA-Z])|(?<![a-zA-Z\\])e(?!\{?[+-]?\d|[a-zA-Z])|\\exp\b")

_MULTIPLIERS = {
    "hundred": r"\times10^{2}",
    "thousand": r"\times10^{3}",
    "million": r"\times10^{6}",
    "billion": r"\times10^{9}",
    "trillion": r"\times10^{12}",
    "dozen": r"\cdot12",
}
_MULTIPLIER = re.compile(
    rf"(?<=[\d}}])(?:\s|~|\\[ ,;:])*(?P<opening>{UPRIGHT}\s*\{{\s*)?"
    rf"(?P<word>{'|'.join(_MULTIPLIERS)})s?(?![a-zA-Z-])(?(opening)(?P<rest>[^{{}}]*)\}})"
)

_ELLIPSIS = r"(?:\.\.\.|\\[lc]?dots(?![a-zA-Z]))"
_REPEATING = re.compile(
    r"(?<![\d.])(?P<whole>\d*)\.(?P<once>\d*)"
    r"(?:\\dot\s*\{?(?P<first>\d)\}?(?P<middle>\d*)\\dot\s*\{?(?P<last>\d)\}?"
    rf"|\\(?:overline|bar|dot|widebar)\s*\{{?\s*(?P<again>\d+)\s*\}}?)(?:\s*{_ELLIPSIS})?"
)
_REPEATING_IN_PARENTHESES = re.compile(
    r"(?<![\d.])(?P<whole>\d*)\.(?P<once>\d*)\((?P<again>\d+)\)(?!\d)"
)
# Digits that stand there three times at least, before the dots: 0.1666..., 0.272727...
_REPEATING_BEFORE_DOTS = re.compile(
    rf"(?<![\d.])(?P<whole>\d*)\.(?P<once>\d{{0,20}}?)(?P<again>\d{{1,12}}?)(?P=again){{2,20}}\s*{_ELLIPSIS}"
)
# Other decimals that go on are as good as one that is cut off, if they are no mere estimate.
_GOES_ON = re.compile(rf"(?<![\d.])(\d*\.\d{{5,}})\s*{_ELLIPSIS}")

_SPACE = r"(?:\s|~|\\[ ,;:])"
_MIXED = re.compile(rf"(?<![\d.])(\d+){_SPACE}+(\d+)\s*/\s*(\d+)(?![\d/.^])")
_DIGITS = r"(?:\{{\s*(?P<{0}>\d+)\s*\}}|(?P<{0}_digit>\d))"
_BEFORE_FRACTION = re.compile(
    rf"(?<![\d.])(?P<whole>\d+){_SPACE}*\\[dtc]?frac\s*{_DIGITS.format('top')}\s*"
    rf"{_DIGITS.format('bottom')}"
)
_BEFORE_PARENTHESES = re.compile(
    r"(?<![\d.])(\d+)\s*(?=(?:\\left\s*)?\(\s*-?(?:\\[dtc]?frac|\d+\s*/))"
)
_NEGATIVE_EXPONENT = re.compile(r"\^\s*(-\s*(?:\d+|[a-zA-Z]))")

# Digits may belong to what stands before them: x^2, \sqrt2, \frac12.
_TAKES_DIGITS = re.compile(
    r"[a-zA-Z]$|(?:[\d.^_/!)\]]|\\(?:sqrt|[dtc]?frac|[dt]?binom|log|ln|lg|exp|(?:arc)?(?:sin|cos|tan|cot)))"
    r"(?:\s|~|\\[ ,;:!])*$"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+(?:\s|~|\\[ ,;:!])*$")


def respell_numerals(text: str, *, euler: bool = False) -> str:
    """Returns the text with each numeral spelled as the parser reads it.

    Args:
        text: LaTeX.
        euler: Whether `e` is Euler's number also where it could be e-notation: `2e+1` is 20, but
            beside a gold of 1 + 2e it is that.
    """
    # Digits of other scripts are not read, and a text with them is no better for this.
    if not any(map(str.isdecimal, text)) or any(c.isdecimal() and c > "9" for c in text):
        return text
    text = _NEGATIVE_EXPONENT.sub(r"^{\1}", _close_up(text))
    if "." in text:
        for repeating in (_REPEATING, _REPEATING_IN_PARENTHESES, _REPEATING_BEFORE_DOTS):
            text = repeating.sub(_as_fraction, text)
        text = _GOES_ON.sub(r"\1", text)
    text = _TIMES_TEN.sub(_as_e_notation, text)
    notation = _CAPITAL_E_NOTATION if euler else _E_NOTATION
    text = notation.sub(_as_e_notation, text)
    return _split_products(_MIXED.sub(_as_mixed_number, text))


def has_multiplier(text: str) -> bool:
    """Whether a number is followed by `million` or the like."""
    return _MULTIPLIER.search(text) is not None


def multiplied(text: str) -> str:
    r"""The text with `5\text{ million dollars}` as `5\times10^{6}\text{ dollars}`."""

    def spelled(found: re.Match[str]) -> str:
        rest = found["rest"] or ""
        factor = _MULTIPLIERS[found["word"]]
        return factor + (rf"\text{{{rest}}}" if found["opening"] and rest.strip() else "")

    return _MULTIPLIER.sub(spelled, text)


def has_euler(text: str) -> bool:
    """Whether Euler's number stands in the text."""
    return _EULER.search(text) is not None


def _close_up(text: str) -> str:
    """Thousands without their separators."""
    text = _GROUPED_BY_GAPS.sub(lambda found: re.sub(_GAP, "", found[0]), text)
    if "," in text:
        text = _GROUPED_BY_COMMAS.sub(_without_commas, _CLOSED_COMMA.sub("", text))
    return text


def _without_commas(found: re.Match[str]) -> str:
    r"""In `(5,120)` and `\{5,120\}` the comma separates, but no list has a number 080."""
    if ",0" in found[0]:
        thousands = not found.string[: found.start()].rstrip().endswith(("^", "_"))
    else:
        slashed = found.string[: found.start()].endswith("/")
        thousands = slashed or _stands_alone(found)
        thousands = thousands and not in_list(found.string, found.start())
    return found[0].replace(",", "") if thousands else found[0]


def _stands_alone(found: re.Match[str]) -> bool:
    r"""Whether the digits are a number of their own, not an exponent or the argument in \sqrt2."""
    before = found.string[max(0, found.start() - 40) : found.start()]
    taken = _TAKES_DIGITS.search(before)
    if taken is None:
        return True
    command = _COMMAND.search(before)
    return command is not None and taken.start() > command.start()


def _as_e_notation(found: re.Match[str]) -> str:
    if not _stands_alone(found):
        return found[0]
    exponent = (found["braced"] or found["bare"]).replace(" ", "")
    return f"{found['mantissa'].rstrip('.')}E{int(exponent)}"


def _as_fraction(found: re.Match[str]) -> str:
    r"""0.1\overline{6} is (16 - 1) / 90."""
    parts = found.groupdict()
    again = parts["again"] or parts["first"] + parts["middle"] + parts["last"]
    once = parts["whole"] + (parts.get("once") or "")
    top = int(once + again) - int(once or "0")
    bottom = "9" * len(again) + "0" * len(parts.get("once") or "")
    return rf"(\frac{{{top}}}{{{bottom}}})"


def _as_mixed_number(found: re.Match[str]) -> str:
    whole, top, bottom = found.groups()
    proper = 0 < int(top) < int(bottom)
    return rf"{whole}\frac{{{top}}}{{{bottom}}}" if proper and _stands_alone(found) else found[0]


def _split_products(text: str) -> str:
    r"""Writes the dot in `2\frac{3}{2}` and `2(\frac12)`, which the parser takes for 2 + 3/2."""
    text = _BEFORE_FRACTION.sub(_with_dot, text)
    return _BEFORE_PARENTHESES.sub(
        lambda found: rf"{found[1]}\cdot " if _stands_alone(found) else found[0], text
    )


def _with_dot(found: re.Match[str]) -> str:
    top = int(found["top"] or found["top_digit"])
    bottom = int(found["bottom"] or found["bottom_digit"])
    if 0 < top < bottom or not _stands_alone(found):
        return found[0]
    return rf"{found['whole']}\cdot {found[0][len(found['whole']) :]}"
