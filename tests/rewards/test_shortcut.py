"""The shortcut gives the parser's verdicts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_lambda.rewards import GraderPool
from trl_lambda.rewards.shortcut import shortcut

SPELLINGS = (str, "{:,}".format, "{:03d}".format)


def _spelled(value: int, generator: random.Random) -> str:
    return generator.choice(SPELLINGS)(value)


def test_shortcut_and_parser_agree_on_integers(pool: GraderPool) -> None:
    generator = random.Random(0)
    tasks = []
    for _ in range(400):
        value = int(generator.choice([1, -1]) * 10 ** generator.uniform(0, 9))
        others = [value, -value, value + 1, value * 10, value // 1000]
        golds = tuple(_spelled(other, generator) for other in generator.sample(others, 2))
        tasks.append((golds, _spelled(value, generator)))
    quick = [shortcut(*task) for task in tasks]
    assert None not in quick
    assert {"ok", "wrong"} == set(quick)
    assert quick == pool.judge_many(tasks, timeout=10.0)


@given(st.text(min_size=1))
def test_the_same_text_is_right(text: str) -> None:
    assert shortcut([text], text) == "ok"


@pytest.mark.parametrize(
    "text",
    ["5.0", "+5", "--5", "٣", "３", "2²", "5 ", "5\n", "1,00", "0,123", "1,0000", "1,", "1e3", ""],
)
def test_what_is_no_plain_integer_is_left_to_the_parser(text: str) -> None:
    assert shortcut(["7"], text) is None
    assert shortcut([text], "7") is None
    assert shortcut(["7", text], "8") is None


def test_thousands_of_digits_need_no_conversion() -> None:
    assert shortcut(["0" + "9" * 5000], "9" * 5000) == "ok"
    assert shortcut(["9" * 5000], "9" * 5001) == "wrong"
