r"""The comparison of an answer with its golds, by math-verify.

Runs in worker processes only: a text such as `9^{9^{9^{9}}}` holds the interpreter for ever, and
no signal handler or thread of the same process can stop it. math-verify's own timeout is such a
handler, so it is off.
"""

import logging
from functools import lru_cache

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import And, Basic, Eq, FiniteSet, Interval, MatrixBase, Tuple

from trl_lambda.rewards.refusals import ends_in_variable, is_refused, without_percent
from trl_lambda.rewards.spelling import respell
from trl_lambda.rewards.verdict import Reason

# math-verify warns once that its timeout is off, which is the point here.
logging.getLogger("math_verify").setLevel(logging.ERROR)

Parsed = list[Basic | MatrixBase | str]

# Golds of the usual sets nest two deep; the time of the parser doubles with every level.
MAX_BRACE_DEPTH = 16

# The first verdict that one of several golds gives. A gold that cannot be read might have been the
# one that is right, so it comes before "wrong".
_PRECEDENCE: tuple[Reason, ...] = ("ok", "unparseable_gold", "unparseable_answer", "wrong")


def judge(golds: tuple[str, ...], answer: str) -> Reason:
    """Returns whether the answer equals one of the golds; may take for ever.

    Args:
        golds: Bare golds, as `gold_texts` gives them.
        answer: A bare answer, as `extract_answer` gives it.
    """
    answer = respell(answer)
    reasons: list[Reason] = [_judge_one(respell(gold), answer) for gold in golds]
    return min(reasons, key=_PRECEDENCE.index)


def _judge_one(gold: str, answer: str) -> Reason:
    units = not ends_in_variable(gold)
    parsed_gold = _parsed_gold(gold, units)
    parsed_answer = _parsed(answer, units)
    # Gold first: math-verify turns the answer into the gold's form, not the other way round.
    equal = verify(parsed_gold, parsed_answer, timeout_seconds=None)
    if equal and not is_refused(gold, answer) and not _differ_in_kind(parsed_gold, parsed_answer):
        return "ok"
    if not _is_mathematics(parsed_gold):
        return "unparseable_gold"
    return "wrong" if _is_mathematics(parsed_answer) else "unparseable_answer"


def _parsed(text: str, units: bool) -> Parsed:
    r"""math-verify's reading: an expression and the normalised text, or the text alone.

    The text is boxed, since bare LaTeX such as `\frac43` is read only where something marks it as
    LaTeX. Plain expressions are not tried: from LaTeX that cannot be read they would fish a number.
    """
    if not _has_sound_braces(text) or r"\boxed" in text or r"\fbox" in text:
        return []
    boxed = rf"\boxed{{{without_percent(text)}}}"
    return parse(boxed, extraction_config=(_latex_config(units),), parsing_timeout=None)


# A group of completions shares its gold, and half the time of a grading is reading it.
_parsed_gold = lru_cache(maxsize=1024)(_parsed)


@lru_cache
def _latex_config(units: bool) -> LatexExtractionConfig:
    return LatexExtractionConfig(
        boxed_match_priority=0,
        try_extract_without_anchor=False,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=units, malformed_operators=True, nits=True, boxed="last"
        ),
    )


def _has_sound_braces(text: str) -> bool:
    """Whether braces are balanced, and not nested so deep that they are only there to stall."""
    depth = 0
    for character in text.replace(r"\{", "").replace(r"\}", ""):
        depth += (character == "{") - (character == "}")
        if not 0 <= depth <= MAX_BRACE_DEPTH:
            return False
    return depth == 0


def _is_mathematics(parsed: Parsed) -> bool:
    return any(not isinstance(part, str) for part in parsed)


def _differ_in_kind(gold: Parsed, answer: Parsed) -> bool:
    """Whether one is ordered and the other is not, or the answer states a falsehood."""
    if not (_is_mathematics(gold) and _is_mathematics(answer)):
        return False
    ordered = [isinstance(parsed[0], (Interval, Tuple)) for parsed in (gold, answer)]
    a_set = any(isinstance(parsed[0], FiniteSet) for parsed in (gold, answer))
    return (a_set and any(ordered)) or _states_falsehood(answer[0])


def _states_falsehood(expression: Basic | MatrixBase | str) -> bool:
    """Whether the answer is a chain such as 1 = 2 = 5, of which only the end would be compared."""
    relations = expression.args if isinstance(expression, And) else [expression]
    return any(
        isinstance(relation, Eq)
        and not relation.free_symbols
        and relation.lhs.equals(relation.rhs) is False
        for relation in relations
    )
