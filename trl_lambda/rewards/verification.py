r"""The comparison of an answer with its golds: math-verify, and what it leaves open.

Runs in worker processes only: a text such as `9^{9^{9^{9}}}` holds the interpreter for ever, and
no signal handler or thread of the same process can stop it. math-verify's own timeout is such a
handler, so it is off.

A pair of texts passes these stations:

1. `spelling`, `numerals`: one spelling for what can be spelled in many ways.
2. `forms`: lettered choices, times of day, ratios of three.
3. `units`: taken off; compared where a text states several quantities.
4. `reading`, `comparison`: the expressions.
5. `refusals`: what the wording rules out although the expressions are equal.
"""

import logging

from trl_lambda.rewards.comparison import proportional, same
from trl_lambda.rewards.forms import choice, clock, is_time, ratio_terms, with_both_signs
from trl_lambda.rewards.letters import letters_in_both_cases, same_words, with_case
from trl_lambda.rewards.numerals import (
    has_euler,
    has_multiplier,
    multiplied,
    respell_numerals,
)
from trl_lambda.rewards.reading import Reading, read
from trl_lambda.rewards.refusals import is_refused, without_percent
from trl_lambda.rewards.spelling import respell
from trl_lambda.rewards.units import Measured, mark_words, measure, variables
from trl_lambda.rewards.verdict import Reason

# math-verify warns once that its timeout is off, which is the point here.
logging.getLogger("math_verify").setLevel(logging.ERROR)

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
    gold, answer = _spelled_alike(gold, answer)
    quantities = measure(gold), measure(answer, variables(gold))
    try:
        equal = _equal(gold, answer, *quantities)
    except Exception:  # SymPy fails in many ways, none of which shows that two things are equal.
        equal = False
    if equal and not is_refused(gold, answer):
        return "ok"
    if not _is_mathematics(quantities[0]):
        return "unparseable_gold"
    return "wrong" if _is_mathematics(quantities[1]) else "unparseable_answer"


def _spelled_alike(gold: str, answer: str) -> tuple[str, str]:
    """Numerals and words after them in one spelling, with regard to the other text."""
    if has_multiplier(gold):  # Of a gold of 5, 5 million is no answer, however it is spelled.
        gold, answer = multiplied(gold), multiplied(answer)
    euler_in_gold, euler_in_answer = has_euler(gold), has_euler(answer)
    gold = mark_words(respell_numerals(gold, euler=euler_in_answer), answer=False)
    answer = respell_numerals(answer, euler=euler_in_gold)
    # Where the gold has variables, a letter of the answer is one too, and no unit.
    return gold, answer if variables(gold) else mark_words(answer, answer=True)


def _equal(gold: str, answer: str, ours: Measured, theirs: Measured) -> bool:
    if is_time(gold) or is_time(answer):
        times = clock(gold), clock(answer)
        return times[0] is not None and times[1] is not None and times[0].same(times[1])
    by_choice = _equal_choices(gold, answer)
    return _equal_quantities(ours, theirs) if by_choice is None else by_choice


def _equal_choices(gold: str, answer: str) -> bool | None:
    """Compares letters, and their values; `None` where a text is no choice."""
    ours, theirs = choice(gold), choice(answer)
    if ours is not None and ours.value:
        if theirs is None:
            return _judge_one(ours.value, answer) == "ok"
        same_value = not theirs.value or _judge_one(ours.value, theirs.value) == "ok"
        return ours.letter == theirs.letter and same_value
    if theirs is None:
        return None
    if not theirs.value:
        return None if ours is None else ours.letter == theirs.letter
    if ours is not None:
        return ours.letter == theirs.letter
    return None if variables(gold) else _judge_one(gold, theirs.value) == "ok"


def _equal_quantities(ours: Measured, theirs: Measured) -> bool:
    """Compares expressions; where a text states several quantities, each with that of its unit."""
    sides = [sorted(side.parts, key=lambda part: part.unit) for side in (ours, theirs)]
    units = [[part.unit for part in side] for side in sides]
    by_unit = ours.units_differ and theirs.units_differ and units[0] == units[1]
    if ours.joined or theirs.joined or by_unit:
        return units[0] == units[1] and all(
            _equal_expressions(mine.number, other.number)
            for mine, other in zip(*sides, strict=True)
        )
    return _equal_expressions(ours.text, theirs.text)


def _equal_expressions(gold: str, answer: str) -> bool:
    if same_words(gold, answer):
        return True
    cased = letters_in_both_cases(gold) | letters_in_both_cases(answer)
    ratios = ratio_terms(gold), ratio_terms(answer)
    if ratios[0] is None and ratios[1] is None:
        return same(_read(gold, cased), _read(answer, cased), cases_differ=bool(cased))
    if ratios[0] is None or ratios[1] is None:
        return False
    return proportional(*([_read(term, cased) for term in terms] for terms in ratios))


def _is_mathematics(quantities: Measured) -> bool:
    return _read(quantities.text).expression is not None


def _read(text: str, cased: frozenset[str] = frozenset()) -> Reading:
    text = with_both_signs(without_percent(text))
    return read(with_case(text, cased), True) if cased else read(text)
