r"""Reads a text: math-verify's parser, and its expression made exact.

Decimals become fractions, so that nothing downstream rounds; `7 > x > -2` becomes `-2 < x < 7` and
`5 = x` becomes `x = 5`.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache

from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from latex2sympy2_extended.logic import And
from latex2sympy2_extended.sets import FiniteSet
from math_verify.grader import should_treat_as_complex
from math_verify.parser import get_last_eq
from sympy import (
    Basic,
    Eq,
    Float,
    Ge,
    Gt,
    Integer,
    Interval,
    MatrixBase,
    Ne,
    Rational,
    Symbol,
    Tuple,
)
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from trl_lambda.rewards.brackets import nesting

Expression = Basic | MatrixBase
_NAMES = (Symbol, AppliedUndef)

# Golds of the usual sets nest two deep; the time of the parser doubles with every level.
MAX_NESTING = 16

# Digits of an exponent that are written out; a number beyond is left as the parser has it.
_MAX_EXPONENT = 10_000

_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_IGNORING_CASE = ConversionConfig(lowercase_symbols=True)
_KEEPING_CASE = ConversionConfig(lowercase_symbols=False)

_PLAIN = re.compile(r"(-?)\s*([0-9]+|[0-9]*\.[0-9]+)")
_FRACTION = re.compile(
    r"(-?)\s*(?:\\[dt]?frac\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))"
    r"|([0-9]+)\s*/\s*([0-9]+))"
)
# Texts that are not read: a box, whose content was the answer, and a base in words.
_UNREADABLE = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])|\d\s*_\s*\{\s*\\text")


@dataclass(frozen=True)
class Decimal:
    """How a decimal was written.

    Attributes:
        digits: Its significant digits, without zeros at the end.
        last: The exponent of ten of the last of them.
    """

    digits: int
    last: int


@dataclass(frozen=True)
class Reading:
    """The reading of a text.

    Attributes:
        expression: The expression, exact; `None` where the text is not mathematics.
        text: The text as the parser got it.
        decimals: The decimals in the text, by their value.
    """

    expression: Expression | None
    text: str
    decimals: dict[Rational, Decimal] = field(default_factory=dict)


@lru_cache(maxsize=2048)
def read(text: str, cases_differ: bool = False) -> Reading:
    """Reads LaTeX.

    Args:
        text: Bare LaTeX without units and percent signs.
        cases_differ: Whether upper and lower case are two symbols.
    """
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        return _read_numeral(text, plain)
    fraction = _FRACTION.fullmatch(text)
    if fraction is not None:
        sign, top, bottom = filter(None, (fraction[1] or "+", *fraction.groups()[1:]))
        return Reading(Rational(int(sign + top), int(bottom)), text)
    depth = nesting(text)
    if depth is None or depth > MAX_NESTING or _UNREADABLE.search(text):
        return Reading(None, "")
    normal = normalize_latex(text, _NORMALIZATION)
    expression = _parse(normal, _KEEPING_CASE if cases_differ else _IGNORING_CASE)
    if expression is None:
        return Reading(None, normal)
    decimals: dict[Rational, Decimal] = {}
    return Reading(_oriented(_exact(expression, decimals)), normal, decimals)


def _read_numeral(text: str, plain: re.Match[str]) -> Reading:
    """A plain numeral needs no parser, and so no time."""
    whole, _, fraction = plain[2].partition(".")
    value = Rational(int(f"{plain[1]}{whole}{fraction}"), 10 ** len(fraction))
    if not fraction:
        return Reading(Integer(value), text)
    return Reading(value, text, {value: _decimal(whole + fraction, -len(fraction))})


def _decimal(digits: str, last: int) -> Decimal:
    kept = digits.rstrip("0")
    return Decimal(len(kept.lstrip("0")), last + len(digits) - len(kept))


def _parse(text: str, config: ConversionConfig) -> Expression | None:
    """The text's expression, or that of its last equation where only this can be read."""
    for part in dict.fromkeys((text, get_last_eq(text))):
        try:
            parsed = latex2sympy(
                part,
                is_real=not should_treat_as_complex(part),
                convert_degrees=False,
                normalization_config=None,
                conversion_config=config,
            )
        except Exception:  # The parser raises plain exceptions, and those of SymPy.
            continue
        if isinstance(parsed, (Basic, MatrixBase)):
            return parsed
    return None


def _exact(expression: Expression, decimals: dict[Rational, Decimal]) -> Expression:
    """The expression with its decimals as fractions, which are noted; lists keep their order."""
    if isinstance(expression, Float):
        return _exact_decimal(expression, decimals)
    if not expression.has(Float):
        return expression
    if isinstance(expression, MatrixBase):
        return expression.applyfunc(lambda entry: _exact(entry, decimals))
    if isinstance(expression, (FiniteSet, And)):
        return type(expression)(*(_exact(part, decimals) for part in as_written(expression)))
    parts = [_exact(part, decimals) if part.has(Float) else part for part in expression.args]
    if isinstance(expression, Relational):
        return expression.func(*parts, evaluate=False)
    if isinstance(expression, (Tuple, Interval)):
        return expression.func(*parts)
    return expression.func(*parts)


def as_written(expression: FiniteSet | And) -> tuple[Expression, ...]:
    """The parts of a list or of a chain in the order of the text; SymPy's own order is another."""
    return expression._unsorted_args


def _exact_decimal(number: Float, decimals: dict[Rational, Decimal]) -> Expression:
    written = str(number).lower()
    mantissa, _, exponent = written.partition("e")
    if not re.fullmatch(r"-?\d*\.?\d*", mantissa) or abs(int(exponent or 0)) > _MAX_EXPONENT:
        return number
    value = Rational(written)
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    decimals[value] = _decimal(whole + fraction, int(exponent or 0) - len(fraction))
    return value


def _oriented(expression: Expression) -> Expression:
    """Chains from small to large, equations with their lone symbol on the left, and one a value."""
    if isinstance(expression, And):
        relations = as_written(expression)
        if all(isinstance(relation, (Gt, Ge)) for relation in relations):
            return And(*(relation.reversed for relation in reversed(relations)))
    elif isinstance(expression, (Gt, Ge)):
        return expression.reversed
    elif isinstance(expression, FiniteSet):
        return FiniteSet(*map(_oriented, as_written(expression)))
    elif isinstance(expression, Eq) and isinstance(expression.rhs, FiniteSet):  # x = 2, 3
        values = as_written(expression.rhs)
        return FiniteSet(*(Eq(expression.lhs, value, evaluate=False) for value in values))
    elif isinstance(expression, (Eq, Ne)) and not isinstance(expression.lhs, _NAMES):
        left, right = expression.args
        if isinstance(right, _NAMES) and not left.has(right):
            return expression.func(right, left, evaluate=False)
    return expression
