r"""Whether two readings say the same: math-verify's comparison, with exact numbers.

math-verify decides what a set, an interval or an equation has to be compared with, and how; but its
numbers are equal when they differ by less than a millionth or agree to fifteen digits, so that
`10^{-18}` equals `10^{-24}`. For the time of a comparison, its tests of numbers are replaced by the
ones here:

- Two numbers are equal if they are the same number, to as many digits as it takes to tell.
- A decimal of at least six significant digits also equals what it is the rounding of, or the
  beginning: `0.666667` and `0.666666` are 2/3, and `3.14159` is π.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations

from latex2sympy2_extended.logic import And
from latex2sympy2_extended.sets import FiniteSet
from math_verify import grader
from sympy import (
    Basic,
    E,
    Eq,
    Expr,
    Integral,
    Interval,
    Limit,
    MatrixBase,
    MatrixExpr,
    Mul,
    Ne,
    Product,
    Rational,
    Sum,
    Symbol,
    Tuple,
    nan,
    oo,
    sign,
    simplify,
    solve,
    zoo,
)
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from trl_lambda.rewards.reading import Decimal, Expression, Reading, as_written

# Fewer digits than this are no more than an estimate.
MIN_SIGNIFICANT_DIGITS = 6

# Numbers that agree to so many digits are the same; fractions are compared as they are.
_MOST_DIGITS = 1000
# Results of quadrature or summation are known to fewer.
_MOST_DIGITS_OF_SERIES = 30

# Longer lists are compared only in the order that SymPy gives them.
_MOST_ELEMENTS = 8

Decimals = dict[Rational, Decimal]


def same(gold: Reading, answer: Reading, *, cases_differ: bool = False) -> bool:
    """Whether the answer says what the gold says.

    Args:
        gold: The gold's reading.
        answer: The answer's reading.
        cases_differ: Whether upper and lower case are two symbols.
    """
    if gold.text == answer.text != "":
        return True
    if gold.expression is None or answer.expression is None:
        return False
    with _exact_numbers({**gold.decimals, **answer.decimals}, cases_differ):
        return not _differ_in_kind(gold, answer) and _same_lists(gold, answer)


def proportional(gold: Sequence[Reading], answer: Sequence[Reading]) -> bool:
    """Whether the terms of two ratios are proportional."""
    ours, theirs = ([_finite(term.expression) for term in terms] for terms in (gold, answer))
    if len(ours) != len(theirs) or None in ours or None in theirs:
        return False
    # Else 0:0:0 would be every ratio.
    if [_is_zero(term) for term in ours] != [_is_zero(term) for term in theirs]:
        return False
    with _exact_numbers({}, cases_differ=False):
        return all(
            _equal(ours[i] * theirs[j], ours[j] * theirs[i])
            for i, j in combinations(range(len(ours)), 2)
        )


def _finite(expression: Expression | None) -> Expr | None:
    if not isinstance(expression, Expr) or expression.has(oo, -oo, zoo, nan):
        return None
    return expression.doit()


def _same_lists(gold: Reading, answer: Reading) -> bool:
    """Compares what is listed one by one where an element is repeated: `1,1` is not `1`."""
    ours, theirs = _elements(gold), _elements(answer)
    if len(ours) != len(theirs):
        return False
    repeated = _repeats(ours) or _repeats(theirs)
    if not repeated and _equal(gold.expression, answer.expression):
        return True
    if not repeated and (len(ours) == 1 or len(ours) > _MOST_ELEMENTS):
        return False
    for element in ours:
        match = next((other for other in theirs if _equal(element, other)), None)
        if match is None:
            return False
        theirs.remove(match)
    return True


def _equal(gold: Expression, answer: Expression) -> bool:
    assigned = isinstance(gold, Eq) and isinstance(answer, Eq) and gold.lhs == answer.lhs
    if assigned and isinstance(gold.lhs, (Symbol, AppliedUndef)) and _equal(gold.rhs, answer.rhs):
        return True
    if _is_value_of_function(gold) and not isinstance(answer, (Relational, And)):
        gold = gold.rhs
    return grader.verify(gold, answer, timeout_seconds=None)


def _is_value_of_function(expression: Expression) -> bool:
    """Whether this is f(2) = 7; where its argument is a variable, math-verify takes the value."""
    return (
        isinstance(expression, Eq)
        and isinstance(expression.lhs, AppliedUndef)
        and not expression.lhs.free_symbols
    )


def _elements(reading: Reading) -> list[Expression]:
    r"""The elements that a text lists; in `\{1,1\}` the same element twice is one."""
    expression = reading.expression
    if not isinstance(expression, FiniteSet):
        return [expression]
    in_braces = reading.text.lstrip().startswith(r"\{")
    return list(expression.args if in_braces else as_written(expression))


def _repeats(elements: Sequence[Expression]) -> bool:
    return any(element in elements[:index] for index, element in enumerate(elements))


def _differ_in_kind(gold: Reading, answer: Reading) -> bool:
    """Whether one is ordered and the other is not, or the answer states a falsehood."""
    sides = gold.expression, answer.expression
    ordered = any(isinstance(side, (Interval, Tuple)) for side in sides)
    a_set = any(isinstance(side, FiniteSet) for side in sides)
    return (a_set and ordered) or _states_falsehood(answer.expression)


def _states_falsehood(expression: Expression) -> bool:
    """Whether the answer is a chain such as 1 = 2 = 5, of which only the end would be compared."""
    relations = expression.args if isinstance(expression, And) else [expression]
    return any(
        isinstance(relation, Eq)
        and not relation.free_symbols
        and not relation.has(AppliedUndef)  # SymPy says of f(3) that it is not 0
        and relation.lhs.equals(relation.rhs) is False
        for relation in relations
    )


@contextmanager
def _exact_numbers(decimals: Decimals, cases_differ: bool) -> Iterator[None]:
    """Has math-verify compare numbers with the functions of this module."""
    replacements = {
        "sympy_numeric_eq": partial(_equal_numbers, decimals),
        "sympy_symbolic_eq": _equal_symbolically,
        "sympy_solve_and_compare": partial(_equal_solutions, grader.sympy_solve_and_compare),
    }
    if cases_differ:
        replacements["sympy_compare_symbols"] = _equal_names
    originals = {name: getattr(grader, name) for name in replacements}
    for name, function in replacements.items():
        setattr(grader, name, function)
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(grader, name, function)


def _equal_numbers(decimals: Decimals, gold: Basic, answer: Basic, *_: object) -> bool:
    """Whether two numbers, or matrices, are the same; variables are left to the next test."""
    if isinstance(gold, (MatrixBase, MatrixExpr)) and isinstance(answer, (MatrixBase, MatrixExpr)):
        return _equal_matrices(decimals, gold.doit(), answer.doit())
    if gold.free_symbols or answer.free_symbols:
        return False
    gold, answer = gold.doit(), answer.doit()
    if gold == answer:
        return gold is not nan
    exact = isinstance(gold, Rational) and isinstance(answer, Rational)
    if not exact and _is_zero(gold - answer):
        return True
    return _stands_for(decimals, gold, answer) or _stands_for(decimals, answer, gold)


def _equal_matrices(decimals: Decimals, gold: MatrixBase, answer: MatrixBase) -> bool:
    return gold.shape == answer.shape and all(
        ours == theirs
        or _equal_numbers(decimals, ours, theirs)
        or _equal_symbolically(ours, theirs)
        for ours, theirs in zip(gold.flat(), answer.flat(), strict=True)
    )


def _is_zero(difference: Expr) -> bool:
    """Whether a constant is zero; SymPy marks a value without one certain digit by precision 1."""
    if isinstance(difference, Rational):
        return difference == 0
    series = difference.has(Integral, Sum, Product, Limit)
    most = _MOST_DIGITS_OF_SERIES if series else _MOST_DIGITS
    value = difference.evalf(2, maxn=most)
    if value == 0:  # SymPy says so of log(1 + 10^{-20}) too, as long as it sees few digits.
        value = difference.evalf(most)
    if not value.is_number or value.has(Integral, Sum, Product, Limit):
        return simplify(difference).is_zero is True
    return all(part == 0 or getattr(part, "_prec", 0) == 1 for part in value.as_real_imag())


def _stands_for(decimals: Decimals, decimal: Expr, number: Expr) -> bool:
    """Whether a decimal is the rounding of a number, or its first digits."""
    written = decimals.get(decimal) if isinstance(decimal, Rational) else None
    if written is None or written.digits < MIN_SIGNIFICANT_DIGITS:
        return False
    # In units of the decimal's last digit, away from zero.
    rest = ((number - decimal) * sign(decimal) / Rational(10) ** written.last).evalf(15)
    return rest.is_real is True and -0.5 <= rest < 1


def _equal_symbolically(gold: Basic, answer: Basic) -> bool:
    """Whether expressions with variables are the same; numbers were compared before."""
    if not (gold.free_symbols or answer.free_symbols):
        return False
    try:
        difference = simplify(gold - answer)
    except Exception:  # SymPy's simplifications fail in many ways, none of which is an equality.
        return False
    return difference.is_zero_matrix if isinstance(difference, MatrixBase) else difference.is_zero


def _equal_solutions(
    compare: Callable[..., bool], gold: Relational, answer: Relational, *options: object
) -> bool:
    """Whether relations have the same solutions; those without any, as x² = -1, need not agree."""
    if not isinstance(gold, Eq) and _is_multiple(gold, answer):
        return True
    if not compare(gold, answer, *options):
        return False
    return bool(solve(gold, gold.free_symbols)) or _is_multiple(gold, answer)


def _is_multiple(gold: Relational, answer: Relational) -> bool:
    """Whether one is the other multiplied by a number: 2x < 4 is x < 2, but -x < -2 is not."""
    if type(gold) is not type(answer):
        return False
    factor = simplify((gold.lhs - gold.rhs) / (answer.lhs - answer.rhs))
    if not factor.is_number or not factor.is_real:
        return False
    return factor != 0 if isinstance(gold, (Eq, Ne)) else factor.is_positive is True


def _equal_names(gold: Basic, answer: Basic) -> bool:
    """Whether two symbols, or a symbol and its letters one by one, are spelled the same."""
    return _function_name(gold) == _function_name(answer)


def _function_name(expression: Basic) -> str:
    letters = expression.args if isinstance(expression, Mul) else [expression]
    if not all(letter == E or isinstance(letter, Symbol) for letter in letters):
        return str(expression)
    return "".join(letter.name if isinstance(letter, Symbol) else "e" for letter in letters)
