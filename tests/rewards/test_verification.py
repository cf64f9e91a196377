"""The refusals, and what they are for."""

import pytest
from math_verify import parse, verify

from trl_lambda.rewards import GraderPool, equivalent, equivalent_many

ACCEPTED_BY_MATH_VERIFY = [
    ("10", r"10\%"),
    ("0.1", r"10\%"),
    ("11", "11_8"),
    ("4210_5", "4210_7"),
    ("4210_5", "4210"),
    (r"\{1,2\}", "(1,2)"),
    (r"\{1,2,3\}", "[1,2,3]"),
    ("(1,2)", r"\{1,2\}"),
    ("6", "4 2"),
    ("5", "(2)(3)"),
    ("5", "2(3)"),
    ("5", r"2\;3"),
    ("5", "1=2=5"),
    ("6", r"6\text{ or 7}"),
    ("2m", "2"),
    ("3ab", "3"),
]


@pytest.mark.parametrize(("gold", "answer"), ACCEPTED_BY_MATH_VERIFY)
def test_a_refusal_is_needed_and_works(pool: GraderPool, gold: str, answer: str) -> None:
    boxed_gold, boxed_answer = (parse(rf"\boxed{{{text}}}") for text in (gold, answer))
    # If this fails, math-verify has mended it and the refusal can go.
    assert verify(boxed_gold, boxed_answer)
    assert pool.judge_many([((gold,), answer)], timeout=5.0) == ["wrong"]


@pytest.mark.parametrize(
    ("golds", "answer", "reason"),
    [
        (("5",), r"\frac{10}{2}", "ok"),
        (("5", "1/{"), r"\frac{10}{2}", "ok"),
        (("1/{", "5"), r"\frac{10}{2}", "ok"),
        (("5", "1/{"), "6", "unparseable_gold"),
        (("5", "6"), "&", "unparseable_answer"),
        (("5", "6"), "7", "wrong"),
    ],
)
def test_the_verdict_over_several_golds(
    pool: GraderPool, golds: tuple[str, ...], answer: str, reason: str
) -> None:
    assert pool.judge_many([(golds, answer)], timeout=5.0) == [reason]


def test_equivalence_holds_in_both_directions(pool: GraderPool) -> None:
    pairs = [
        (r"\frac12", "0.5"),
        ("1,000", "1000"),
        ("x=5", "5"),
        ("10", r"10\%"),
        ("5", "6"),
        (r"\frac12", "0.6"),
        (r"1.7 \times 10^{-18}", r"4.6 \times 10^{-24}"),
        (r"2.3 \times 10^{8}", "230000000"),
        (r"1-\frac1{2^{2023}}", r"1-\frac1{2^{2024}}"),
    ]
    expected = [True, True, True, False, False, False, False, True, False]
    assert equivalent_many(pairs, pool=pool) == expected
    assert equivalent_many([pair[::-1] for pair in pairs], pool=pool) == expected


def test_a_comparison_that_hangs_counts_as_unequal() -> None:
    assert equivalent("7", "7")
    assert not equivalent("9^{9^{9^{9}}}", "5", timeout=0.5)
