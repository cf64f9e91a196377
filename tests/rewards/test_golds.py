"""Golds as data sets write them."""

import pytest

from trl_lambda.rewards.golds import gold_texts


@pytest.mark.parametrize(
    ("golds", "texts"),
    [
        ("5", ("5",)),
        (["5", "6"], ("5", "6")),
        (("5",), ("5",)),
        (142.0, ("142",)),
        (0.1, ("0.1",)),
        (1e-07, ("0.0000001",)),
        (-3, ("-3",)),
        (1e300, (str(int(1e300)),)),
        (float("inf"), ("",)),
        (None, ("",)),
        ([], ()),
        (["x" * 5000], ("",)),
        (r"So \boxed{5}.", ("5",)),
        ("48 / 2 = 24\n#### 24", ("24",)),
    ],
)
def test_golds_come_as_bare_texts(golds: object, texts: tuple[str, ...]) -> None:
    assert gold_texts(golds) == texts


@pytest.mark.parametrize("gold", [True, b"5", {"answer": "5"}, [["5"]]])
def test_what_is_no_gold_is_refused(gold: object) -> None:
    with pytest.raises(TypeError, match=r"a gold is .* expected a text, a number or None"):
        gold_texts(gold)
