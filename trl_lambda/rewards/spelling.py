r"""Spellings that the parser misreads, brought to the one it reads.

Both the gold and the answer go through `respell` before anything else looks at them. Nothing here
compares: what two texts have to do with each other is the business of the modules that follow.
"""

import re
from collections.abc import Callable
from functools import lru_cache

# A text group; its content is the last group of the expression.
TEXT = (
    r"\\(?:text(?:rm|bf|it|sf|tt|up|normal)?|mbox|hbox|math(?:rm|bf|it|sf|tt)|operatorname)"
    r"\s*\{([^{}]*)\}"
)

# Superscripts, and digits of other scripts, are left alone: a text with them is not read.
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f", " "),
        **dict.fromkeys("−–‑‒", "-"),
        **dict.fromkeys("·⋅∙•", r"\cdot "),
        **dict.fromkeys("∕⁄", "/"),
        **dict.fromkeys("∶：", ":"),
        **dict.fromkeys("°º˚", r"^{\circ} "),
        **dict.fromkeys("≤⩽", r"\le "),
        **dict.fromkeys("≥⩾", r"\ge "),
        **dict.fromkeys("∅⌀", r"\emptyset "),
        **dict.fromkeys("€£¥₹₩", r"\$"),
        "¢": r"\text{ cents}",
        "×": r"\times ",
        "÷": r"\div ",
        "，": ", ",
        "；": "; ",
        "（": "(",
        "）": ")",
        "∘": r"\circ ",
        "℃": r"^{\circ}\text{C}",
        "℉": r"^{\circ}\text{F}",
        "∞": r"\infty ",
        "±": r"\pm ",
        "∓": r"\mp ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "∈": r"\in ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}",
        "ℕ": r"\mathbb{N}",
        "ℚ": r"\mathbb{Q}",
        "…": r"\ldots ",
        **{
            character: rf"\frac{{{top}}}{{{bottom}}}"
            for character, top, bottom in zip(
                "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "112131234151357", "233445555668888", strict=True
            )
        },
    }
)

_TEXT_COMMAND = r"\\(?:text(?:rm|bf|it|normal)?|mbox|math(?:rm|bf|it))"
_CURRENCY = r"(?:Rs\.?|USD|EUR|GBP|INR|CAD|AUD|CNY|RMB)"

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]

_RULES: tuple[Rule, ...] = (
    # `\ ` at the end of a line, and `~`, are blanks; `\\ ` is a line break.
    (re.compile(r"(?<!\\)((?:\\\\)*)\\\s|~"), r"\1 "),
    (re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in|pc|bp|sp|mu)\s*\]"), r"\\\\ "),
    (re.compile(r"^\s*=|(?:\\\\\s*)+$"), ""),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\\(?:display|text|script)style\b"), " "),
    # The parser drops the degrees of an angle, which only units can do without.
    (
        re.compile(
            r"(\\(?:sin|cos|tan|cot|sec|csc))\s*(?:\\left)?\(?\s*(\d+(?:\.\d+)?)\s*"
            r"\^\s*\{?\s*\\circ(?![a-zA-Z])\s*\}?\s*(?:\\right)?\)?"
        ),
        r"\1(\\frac{\2\\pi}{180})",
    ),
    (re.compile(r"\{\s*\\(?:rm|bf|it)\b\s*(?!d\s*\})([^{}]*)\}"), r"\\text{\1}"),
    (re.compile(r"\\(?:rm|bf|it)\b\s*([^\\{}]*)$"), r"\\text{\1}"),
    (
        re.compile(
            r"\\(?:text(?:bf|rm|it|normal)?|mbox|math(?:bf|rm|it)|boldsymbol|bm)"
            r"\s*\{\s*(-?[\d.,]*\d)\s*\}"
        ),
        r"\1",
    ),
    (re.compile(rf"^{_TEXT_COMMAND}\s*\{{\s*([-+]?\s*(?:\\?\$)?\s*[\d.][^{{}}]*)\}}$"), r"\1"),
    (re.compile(rf"({_TEXT_COMMAND}\s*\{{\s*\([A-J]\))\s*([^{{}}]+)\}}"), r"\1} \2"),
    (re.compile(rf"(\d)\s*{_TEXT_COMMAND}\s*\{{\s*[eE]\s*\}}\s*(?=\{{?[+-]?\d)"), r"\1E"),
    (re.compile(r"\\(?:math(?:rm|it)|operatorname)\s*\{\s*([ei])\s*\}"), r" \1"),
    # Ordinals: 5^{\text{th}}.
    (
        re.compile(rf"(\d)\s*\^\s*\{{\s*(?:{_TEXT_COMMAND}\s*\{{\s*)?(?:st|nd|rd|th)[\s}}]*\}}"),
        r"\1",
    ),
    (re.compile(r"\\([dt]?binom)\s*([a-zA-Z\d])\s*([a-zA-Z\d])"), r"\\\1{\2}{\3}"),
    (re.compile(r"(\d)\s+(?=e\s*\{?[+-]?\d)"), r"\1"),
    (re.compile(r"\\(?:varnothing|O)(?![a-zA-Z])"), r"\\emptyset "),
    (re.compile(r"\\(?:text)?degree(?![a-zA-Z])"), r"^{\\circ}"),
    (re.compile(r"\\colon(?![a-zA-Z])|\{\s*:\s*\}|\\math(?:bin|rel|ord)\s*\{\s*:\s*\}"), ":"),
    (re.compile(r"\\lbrace(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\smallmatrix|\{smallmatrix\}"), "{matrix}"),
    (re.compile(r"√\s*(\d+(?:\.\d+)?|[a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"√\s*(?=[({])"), r"\\sqrt"),
    (re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    # Currencies before the number; `$` itself is the parser's business.
    (re.compile(r"\\(?:textdollar|pounds|euro|texteuro|textsterling|yen)(?![a-zA-Z])"), r"\\$"),
    (re.compile(r"\\(?:text|mathrm)\s*\{\s*\\?\$\s*\}"), r"\\$"),
    (re.compile(rf"\\(?:text|mathrm)\s*\{{\s*{_CURRENCY}\s*\}}\s*(?=\d)"), ""),
    (re.compile(rf"(?<![a-zA-Z\\]){_CURRENCY}\s*(?=\\?\$?\s*\d)|US(?=\\?\$)"), ""),
    # An index in words: v_{\max}, v_\max, v_{\text{max}}; but no base, as in 11_{\text{two}}.
    (
        re.compile(
            r"(?<![\d)}\s])_\s*\{?\s*\\(?:text|mathrm|operatorname|mbox)\s*"
            r"\{\s*([a-zA-Z]{2,})\s*\}\s*\}?"
        ),
        r"_{\1}",
    ),
    (re.compile(r"_\s*\{?\s*\\?(max|min|sup|lim|det)(?![a-zA-Z])\s*\}?"), r"_{\1}"),
)

# The parser reads E_1, e_1 and I otherwise than other letters.
_SPECIAL_LETTER = re.compile(rf"{TEXT}|\\[a-zA-Z]+|(?<![a-zA-Z])(?:[Ee](?=\s*_)|I(?![a-zA-Z]))")
# It takes i for the imaginary unit only where the letter stands alone: `3i` would have a variable,
# and differ from `\frac{6}{2}i`.
_IMAGINARY = re.compile(r"(?<=\d)i\b")


@lru_cache(maxsize=1024)
def respell(text: str) -> str:
    """Returns the text with characters, commands and letters spelled as the parser reads them."""
    if text.isdigit():
        return text
    text = text.translate(_CHARACTERS)
    for pattern, spelling in _RULES:
        text = pattern.sub(spelling, text)
    return _IMAGINARY.sub(" i", _SPECIAL_LETTER.sub(_as_text, text)).strip()


def _as_text(found: re.Match[str]) -> str:
    letter = found[0]
    # Italic: an upright letter could be a unit.
    return rf"\mathit{{{letter}}}" if len(letter) == 1 else letter
