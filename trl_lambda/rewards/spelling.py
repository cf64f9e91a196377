r"""Spellings that the parser misreads, brought to the one it reads.

Both the gold and the answer go through `respell` before anything else looks at them. Nothing here
compares: what two texts have to do with each other is the business of the modules that follow.
"""

import re
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
        **dict.fromkeys("−–—‑‒－", "-"),
        "′": "'",
        "″": "''",
        **dict.fromkeys("·⋅∙•", r"\cdot "),
        **dict.fromkeys("∕⁄", "/"),
        **dict.fromkeys("∶：", ":"),
        **dict.fromkeys("°º˚", r"^{\circ} "),
        **dict.fromkeys("≤⩽", r"\le "),
        **dict.fromkeys("≥⩾", r"\ge "),
        **dict.fromkeys("∅⌀", r"\emptyset "),
        **dict.fromkeys("€£¥₹₩", r"\$"),
        "¢": r"\text{ cents}",
        **dict.fromkeys("×✕✖⨯", r"\times "),
        "∠": r"\angle ",
        "△": r"\triangle ",
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

# An upright group, up to its brace.
UPRIGHT = r"\\(?:text(?:rm|bf|it|normal)?|mbox|math(?:rm|bf|it))"
_BALANCED = r"(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*"
_CURRENCY = r"(?:Rs\.?|USD|EUR|GBP|INR|CAD|AUD|CNY|RMB)"
_END = r"(?![a-zA-Z])"

# Degrees, minutes and seconds of an angle; feet and inches.
_SIZE = r"(?<![\d.])(\d+(?:\.\d+)?)"
_APART = r"(?:\s|\\[,;:! ])*"
_DEGREES = r"\^\s*(?:\\circ|\{\s*\\circ\s*\})"
_MINUTES = r"\s*(?:'|\^\s*(?:\\prime|\{\s*(?:\\prime|')\s*\}))(?!\s*')"
_SECONDS = r"\s*(?:''|\"|\^\s*\{\s*\\prime\s*\\prime\s*\})"

# Text that has to be there for a rule to be tried, which saves most of the time; the pattern; and
# the spelling in its place.
_RULES: tuple[tuple[str, str, str], ...] = (
    # Blanks: `\ ` and `~`. A line break, `\\ `, is none, but goes at the end and loses its height.
    ("", r"(?<!\\)((?:\\\\)*)\\\s|~", r"\1 "),
    ("\\", rf"\\>|\\enspace{_END}|\\h?phantom\s*\{{[^{{}}]*\}}|\\hspace\*?\s*\{{[^{{}}]*\}}", " "),
    ("{", r"(?<=[\d)])\s*\{\s*\}(?=\s*(?:$|\^))", ""),
    ("\\\\", r"(?:\\\\\s*){2,}", r"\\\\ "),
    ("\\\\", r"\\\\\s*\*", r"\\\\ "),
    ("\\\\", r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in|pc|bp|sp|mu)\s*\]", r"\\\\ "),
    ("", r"(?:\\\\\s*)+$|^\s*=", ""),
    ("style", r"\\(?:display|text|script)style" + _END, " "),
    ("left", r"\bleft over\b", "leftover"),
    # Typefaces. Numerals need none, and words at the beginning of an answer may follow a number.
    ("\\", r"\{\s*\\(?:rm|bf|it)\b\s*(?!d\s*\})([^{}]*)\}", r"\\text{\1}"),
    ("\\", r"\\(?:rm|bf|it)\b\s*([^\\{}]*)$", r"\\text{\1}"),
    ("\\", rf"(?:{UPRIGHT}|\\boldsymbol|\\bm)\s*\{{\s*(-?[\d.,]*\d)\s*\}}", r"\1"),
    ("\\", rf"^{UPRIGHT}\s*\{{\s*([-+]?\s*(?:\\?\$)?\s*[\d.][^{{}}]*)\}}$", r"\1"),
    ("\\", rf"({UPRIGHT}\s*\{{\s*(?:\([A-J]\)|[A-J][.:)]))\s*([^{{}}]+)\}}", r"\1} \2"),
    ("\\", rf"^(?:\\(?:text|math)bf|\\boldsymbol|\\bm)\s*\{{({_BALANCED})\}}$", r"\1"),
    # Braces around all of it.
    ("{", rf"^\{{({_BALANCED})\}}$", r"\1"),
    # Marks between numbers that stand in a text of their own.
    ("\\", rf"{UPRIGHT}\s*\{{\s*([:,])\s*\}}", r"\1 "),
    # Upright e and i are the constants; 3.2\text{e}-12 is e-notation, 5^{\text{th}} an ordinal.
    ("\\", rf"(\d)\s*{UPRIGHT}\s*\{{\s*[eE]\s*\}}\s*(?=\{{?[+-]?\d)", r"\1E"),
    ("\\", r"\\(?:math(?:rm|it)|operatorname)\s*\{\s*([ei])\s*\}", r" \1"),
    ("\\mathrm", rf"\\mathrm\s+([ei]){_END}", r" \1"),
    ("^", r"\\text(?:rm)?\s*\{\s*e\s*\}(?=\s*\^)", " e"),
    ("e", r"(\d)\s+(?=e\s*\{?[+-]?\d)", r"\1"),
    ("^", rf"(\d)\s*\^\s*\{{\s*(?:{UPRIGHT}\s*\{{\s*)?(?:st|nd|rd|th)[\s}}]*\}}", r"\1"),
    # Commands with a plainer name.
    ("\\", rf"\\(?:varnothing|O){_END}", r"\\emptyset "),
    ("\\", r"(?:\\left\s*)?\\\{\s*(?:\\right\s*)?\\\}", r"\\emptyset "),
    ("infinity", rf"{UPRIGHT}\s*\{{\s*infinity\s*\}}", r"\\infty "),
    (" set", rf"(?:{UPRIGHT}\s*\{{|^)\s*(?:the )?(?:empty|null) set\s*(?:\}}|$)", r"\\emptyset "),
    ("degree", rf"\\(?:text)?degree{_END}", r"^{\\circ}"),
    ("\\deg", rf"(\d)\s*\\deg{_END}", r"\1^{\\circ}"),
    (
        "^",
        rf"(\d)\s*\^\s*(?:\{{\s*(?:{UPRIGHT}\s*\{{\s*o\s*\}}|o)\s*\}}|o{_END})",
        r"\1^{\\circ}",
    ),
    ("colon", rf"\\colon{_END}", ":"),
    (":", r"\{\s*:\s*\}|\\math(?:bin|rel|ord)\s*\{\s*:\s*\}", ":"),
    ("\\", rf"\\lbrace{_END}", r"\\{"),
    ("\\", rf"\\rbrace{_END}", r"\\}"),
    ("smallmatrix", r"\{smallmatrix\}", "{matrix}"),
    ("binom", r"\\([dt]?binom)\s*([a-zA-Z\d])\s*([a-zA-Z\d])", r"\\\1{\2}{\3}"),
    ("**", r"\*\*", "^"),
    ("√", r"√\s*(\d+(?:\.\d+)?|[a-zA-Z])", r"\\sqrt{\1}"),
    ("√", r"√\s*(?=[({])", r"\\sqrt"),
    ("\\sqrt", r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    # The parser would add 45^\circ and 30'.
    (
        "circ",
        rf"{_SIZE}\s*{_DEGREES}{_APART}{_SIZE}{_MINUTES}{_APART}{_SIZE}{_SECONDS}",
        r"(\1+\\frac{\2}{60}+\\frac{\3}{3600})^{\\circ}",
    ),
    ("circ", rf"{_SIZE}\s*{_DEGREES}{_APART}{_SIZE}{_MINUTES}", r"(\1+\\frac{\2}{60})^{\\circ}"),
    ("'", rf"{_SIZE}{_MINUTES}{_APART}{_SIZE}{_SECONDS}", r"\1\\text{ ft }\2\\text{ in}"),
    # The parser drops the degrees of an angle, which only a unit can do without.
    (
        "circ",
        r"(\\(?:sin|cos|tan|cot|sec|csc))\s*(?:\\left)?\(?\s*(\d+(?:\.\d+)?)\s*"
        r"\^\s*\{?\s*\\circ(?![a-zA-Z])\s*\}?\s*(?:\\right)?\)?",
        r"\1(\\frac{\2\\pi}{180})",
    ),
    # Currencies before the number; `$` itself is the parser's business.
    ("\\", rf"\\(?:textdollar|pounds|euro|texteuro|textsterling|yen){_END}", r"\\$"),
    ("$", rf"{UPRIGHT}\s*\{{\s*\\?\$\s*\}}", r"\\$"),
    ("\\", rf"{UPRIGHT}\s*\{{\s*{_CURRENCY}\s*\}}\s*(?=\d)", ""),
    ("", rf"(?<![a-zA-Z\\]){_CURRENCY}\s*(?=\\?\$?\s*\d)|US(?=\\?\$)", ""),
    # An index in words: v_{\max}, v_\max, v_{\text{max}}; but no base, as in 11_{\text{two}}.
    (
        "_",
        r"(?<![\d)}\s])_\s*\{?\s*\\(?:text|mathrm|operatorname|mbox)\s*"
        r"\{\s*([a-zA-Z]{2,})\s*\}\s*\}?",
        r"_{\1}",
    ),
    ("_", rf"_\s*\{{?\s*\\?(max|min|sup|lim|det){_END}\s*\}}?", r"_{\1}"),
)
_BLANKS = re.compile(r"\s+")
_COMPILED_RULES = [(part, re.compile(pattern), spelling) for part, pattern, spelling in _RULES]

# The parser reads E_1, e_1 and I otherwise than other letters, and `d\cdot` as a differential.
_SPECIAL_LETTER = re.compile(
    rf"{TEXT}|\\[a-zA-Z]+|(?<![a-zA-Z])(?:[Ee](?=\s*_)|I(?![a-zA-Z]))|d(?=\s*\\[a-zA-Z])"
)
# It takes i for the imaginary unit only where the letter stands alone: `3i` would have a variable,
# and differ from `\frac{6}{2}i`.
_IMAGINARY = re.compile(r"(?<=\d)i\b")


@lru_cache(maxsize=1024)
def respell(text: str) -> str:
    """Returns the text with characters, commands and letters spelled as the parser reads them."""
    if text.isdigit():
        return text
    text = _BLANKS.sub(" ", text.translate(_CHARACTERS))
    for part, pattern, spelling in _COMPILED_RULES:
        if part in text:
            text = pattern.sub(spelling, text)
    return _IMAGINARY.sub(" i", _SPECIAL_LETTER.sub(_set_apart, text)).strip()


def _set_apart(found: re.Match[str]) -> str:
    letter = found[0]
    if letter == "d":
        return "{d}"
    # Italic: an upright letter could be a unit.
    return rf"\mathit{{{letter}}}" if len(letter) == 1 else letter
