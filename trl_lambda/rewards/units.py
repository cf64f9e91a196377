r"""Units: which parts of a text are one, and quantities made of several.

A unit on either side may be there or not, and is not compared: `5\text{ cm}` is 5, and so is
`5 dollars` where the gold has no variables. Only where a text states several quantities do their
units count: `2\text{ h }15\text{ min}` is one quantity and no 2, and `3\text{ apples and }4\text{
pears}` are not 4 apples and 3 pears.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from trl_lambda.rewards.brackets import enclosed, split_top_level, top_level
from trl_lambda.rewards.spelling import TEXT
from trl_lambda.rewards.words import FILLERS, WORD, has_known_unit, is_plain, unit_name

# An upright text that is no function of what follows, and no differential.
_WORDS = (
    r"\\(?:text(?:rm|bf|it|sf|normal)?|mbox|hbox|mathrm)\s*\{(?!\s*d\s*\})([^{}]*)\}"
    r"(?!\s*(?:_|\(|\\left\())"
)
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|\d)|[²³])?"
_DEGREES = r"\^\s*(?:\\circ|\{\s*\\circ\s*\})(?:\s*[CFK](?![a-zA-Z]))?"
_BLANK = r"(?:\s|\\[,;:! ]|\\q?quad(?![a-zA-Z]))"
_ATOM = rf"(?:{_WORDS}{_POWER}|{_DEGREES}|\\(?:Omega|AA)(?![a-zA-Z]))"
_BETWEEN = rf"(?:{_BLANK}|/|\\cdot(?![a-zA-Z])|\\times(?![a-zA-Z]))"
_FRACTION = rf"\\[dt]?frac\s*\{{(?:{_ATOM}|{_BETWEEN})+\}}\s*\{{(?:{_ATOM}|{_BETWEEN})+\}}"
_UNIT = re.compile(rf"{_BLANK}*(?:{_ATOM}|{_FRACTION})(?:{_BETWEEN}*(?:{_ATOM}|{_FRACTION}))*")
_OPERATOR = re.compile(r"(?:\\times|\\cdot|[-+*/])(?![a-zA-Z])")
_CONTENT = re.compile(_WORDS)
_BLANKS = re.compile(rf"^{_BLANK}+|{_BLANK}+$")

_CONNECTOR = re.compile(r"(?:[,;]|\b(?:and|or)\b)\s*$")
_SEPARATOR = re.compile(
    r"(?<!\\)[,;]|\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\{])(?:and|or)(?![a-zA-Z}])"
)
_COMMA = re.compile(r"(?<!\\)[,;]")
_EQUALS = re.compile(r"(?<![<>!])=")

# Letters of no variable: texts, degrees Celsius, commands with the names they take, e-notation,
# the left side of an assignment.
_NO_LETTERS = re.compile(
    rf"{TEXT}|{_DEGREES}|\\(?:begin|end|mathbb|mathcal)\s*\{{[^{{}}]*\}}|\\[a-zA-Z]+|\d[eE][+-]?\d"
)
_ITALIC = re.compile(r"\\mathit\{([a-zA-Z])\}")
_ASSIGNED = re.compile(r"(?:^|(?<!\\)[,;])[^,;=<>]*=")

_NUMBER_END = re.compile(r"(?:[\d)}!%$]|\\pi|\\infty)(?:\s|\\[,;:! ])*$")
_LOOSE = re.compile(r"(?:\s|/|\\[,;:!])$")
_IN_PARENTHESES = re.compile(r"\(\s*([a-zA-Z][a-zA-Z .'-]*)\)\s*$")
_WITHIN_RUN = re.compile(r"(?:\^\s*(?:\{\s*-?\d\s*\}|-?\d)|[²³])?[\s/.·*-]*(?:\\cdot\s*)?")
_AFTER_RUN = re.compile(r"(?:\^\s*(?:\{\s*-?\d\s*\}|-?\d)|[²³])?\.?")


class Part(NamedTuple):
    """A number, or an expression, and the name of its unit, which may be empty."""

    number: str
    unit: str


@dataclass(frozen=True)
class Measured:
    """A text as quantities: for each element of its list one, or several joined (`2 h 15 min`).

    Attributes:
        elements: The quantities.
        text: The text without its units.
    """

    elements: tuple[tuple[Part, ...], ...]
    text: str

    @property
    def parts(self) -> list[Part]:
        """The quantities in order."""
        return [part for element in self.elements for part in element]

    @property
    def joined(self) -> bool:
        """Whether an element is more than one quantity."""
        return any(len(element) > 1 for element in self.elements)

    @property
    def units_differ(self) -> bool:
        """Whether every quantity has a unit, and they are not all the same."""
        units = [part.unit for part in self.parts]
        return all(units) and len(set(units)) > 1


def variables(text: str) -> frozenset[str]:
    """The letters of a text that are neither unit nor command nor assigned to."""
    bare = _ASSIGNED.sub(" ", _NO_LETTERS.sub(" ", _ITALIC.sub(r"\1", text)))
    return frozenset(character for character in bare if character.isalpha())


def measure(text: str, keep: frozenset[str] = frozenset()) -> Measured:
    r"""Takes the units off a text.

    Args:
        text: LaTeX, respelled, in which words are marked as `\text{}`.
        keep: Letters that are variables also where they stand upright: `\mathrm{m}`.
    """
    if _UNIT.search(text) is None:
        return Measured(((Part(text, ""),),), text)
    opening, content, closing = enclosed(text)
    pieces = split_top_level(content, _SEPARATOR)
    elements = tuple(element for piece in pieces for element in _elements(piece, keep))
    if not any(part.unit for element in elements for part in element):
        return Measured(elements, text)
    numbers = ", ".join(part.number for element in elements for part in element)
    return Measured(elements, f"{opening}{numbers}{closing}")


def _elements(piece: str, keep: frozenset[str]) -> Iterator[tuple[Part, ...]]:
    """The quantities of a piece; a unit that ends in a comma or `and` ends an element."""
    parts: list[Part] = []
    start = 0
    for unit, content in _units(piece, keep):
        words = _CONNECTOR.sub("", content)
        _add(parts, piece[start : unit.start()], unit_name(words) or "unit")
        start = unit.end()
        if words != content:
            yield tuple(parts)
            parts = []
    rest = _BLANKS.sub("", piece[start:])
    if rest or not start:
        _add(parts, rest, "")
    if parts:
        yield tuple(parts)


def _units(piece: str, keep: frozenset[str]) -> Iterator[tuple[re.Match[str], str]]:
    """The units of a piece with their words, each after a number and the last equals sign."""
    equals = top_level(piece, _EQUALS)
    start = 0
    for found in top_level(piece, _UNIT):
        content = _content(found[0])
        before_equals = bool(equals) and found.start() < equals[-1].start()
        degrees_inside = not content and piece[found.end() :].strip()
        number = _BLANKS.sub("", piece[start : found.start()])
        if number and not before_equals and not degrees_inside and content not in keep:
            yield found, content
            start = found.end()


def _add(parts: list[Part], number: str, unit: str) -> None:
    """Adds a quantity; what stands before it in `5 cm × 6 cm` goes to the unit of the last one."""
    number = _BLANKS.sub("", number)
    operator = _OPERATOR.match(number) if parts else None
    if operator is not None:
        parts[-1] = parts[-1]._replace(unit=f"{parts[-1].unit} {operator[0]}")
        number = number[operator.end() :].strip()
    parts.append(Part(number, unit))


def _content(unit: str) -> str:
    """The words of a unit; none in degrees."""
    return " ".join(found[1] for found in _CONTENT.finditer(unit)).strip()


def mark_words(text: str, *, answer: bool) -> str:
    r"""Writes plain words after numbers as `\text{}`: `5 dollars`, `2 h 15 min`, `60 km/h`.

    A text in which letters mean something else stays as it is.

    Args:
        text: LaTeX, respelled.
        answer: Whether this is the answer to a gold without variables; then a lone `m` is a unit
            too. In a gold it may be a variable.
    """
    if not variables(text):
        return text
    pieces = split_top_level(text, _COMMA)
    marked = [_mark_piece(piece, answer) for piece in pieces]
    if any(piece is None for piece in marked):
        return text
    return ",".join(piece for piece in marked if piece is not None)


def _mark_piece(piece: str, answer: bool) -> str | None:
    """The piece with its words marked; `None` if one of them is no plain word after a number."""
    equals = top_level(piece, _EQUALS)
    start = equals[-1].end() if equals else 0
    tail = _IN_PARENTHESES.sub(r"\1", piece[start:])
    masked = _NO_LETTERS.sub(lambda found: "}" * len(found[0]), tail)
    words = list(WORD.finditer(masked))
    if len(top_level(tail, WORD)) < len(words):
        return None
    alone = answer or " m/s" in masked or has_known_unit(word[0] for word in words)
    runs = list(_runs(masked, words))
    for index, run in enumerate(runs):
        if not _is_unit(masked, run, alone, last=index == len(runs) - 1):
            return None
    for run in reversed(runs):
        end = run[-1].end() + len(_AFTER_RUN.match(masked, run[-1].end())[0])
        content = tail[run[0].start() : end].replace("{", "").replace("}", "")
        tail = f"{tail[: run[0].start()]}\\text{{ {content} }}{tail[end:]}"
    return piece[:start] + tail


def _runs(masked: str, words: list[re.Match[str]]) -> Iterator[list[re.Match[str]]]:
    """Words that follow each other with nothing but blanks, slashes and powers between."""
    run: list[re.Match[str]] = []
    for word in words:
        if run and _WITHIN_RUN.fullmatch(masked, run[-1].end(), word.start()) is None:
            yield run
            run = []
        run.append(word)
    if run:
        yield run


def _is_unit(masked: str, run: list[re.Match[str]], alone: bool, *, last: bool) -> bool:
    """Whether a run of words stands after a number and is a unit, with an `and` at most."""
    if _NUMBER_END.search(masked[: run[0].start()]) is None:
        return False
    if run[-1][0] == "and" and not last and len(run) > 1:
        run = run[:-1]
    rate = run[0][0] in ("a", "an") and len(run) > 1 and len(run[1][0]) > 2  # 5 a day
    return all(
        (word[0] in FILLERS and (index > 0 or word[0] == "of" or rate))
        or is_plain(
            word[0],
            tight=_LOOSE.search(masked[: word.start()]) is None,
            alone=alone,
            follows=index > 0 and len(run[0][0]) > 2,
        )
        for index, word in enumerate(run)
    )
