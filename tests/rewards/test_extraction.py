"""What counts as the answer; the rules one by one are in the table of cases."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_lambda.rewards import extract_answer
from trl_lambda.rewards.extraction import MAX_ANSWER_CHARS

TEN_MEGABYTES = 10_000_000

plain_text = st.text(st.characters(exclude_characters="\\{}<>#$*."))
balanced = st.recursive(
    st.text("abc123 +-^_", min_size=1, max_size=8),
    lambda inner: st.tuples(inner, inner).map(lambda pair: f"{pair[0]}{{{pair[1]}}}"),
    max_leaves=10,
).filter(lambda text: text.strip())


@given(before=plain_text, content=balanced, after=plain_text)
def test_a_balanced_box_gives_its_content(before: str, content: str, after: str) -> None:
    assert extract_answer(rf"{before}\boxed{{{content}}}{after}") == content.strip()


@given(first=balanced, content=balanced, after=plain_text)
def test_an_unterminated_last_box_hides_earlier_ones(first: str, content: str, after: str) -> None:
    assert extract_answer(rf"\boxed{{{first}}} then \boxed{{{content}{after}") is None


@given(st.text())
def test_any_text_gives_an_answer_of_its_own_or_none(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or (answer in text and answer)


@pytest.mark.parametrize(
    "unit",
    [
        "{", "}", "{}", "\\", " ", "\n", "$", "#", "####", "#### 5\n", r"\boxed", r"\boxed{",
        r"\boxed{5}", r"\boxed   ", "<answer>", "<answer>5</answer>", "<think>", "</think>", "a",
        r"\boxed{<answer>", "$ ", "**", ". ",
    ],
)  # fmt: skip
def test_ten_megabytes_take_linear_time(unit: str) -> None:
    text = unit * (TEN_MEGABYTES // len(unit))
    start = time.perf_counter()
    extract_answer(text)
    extract_answer(text + r"\boxed{5}")
    # 0.3 s on one slow core; a quadratic scan would take hours.
    assert time.perf_counter() - start < 15


@pytest.mark.parametrize("ending", [r"\boxed{{{}}}", "<answer>{}</answer>", "#### {}"])
def test_the_longest_answer(ending: str) -> None:
    assert extract_answer(ending.format("9" * MAX_ANSWER_CHARS)) is not None
    assert extract_answer(ending.format("9" * (MAX_ANSWER_CHARS + 1))) is None


@pytest.mark.parametrize(
    ("marked", "answer"),
    [
        ("$5$", "5"),
        ("$$5$$", "5"),
        (r"\(5\)", "5"),
        (r"\[5\].", "5"),
        ("**5**", "5"),
        ("**$5$.**", "5"),
        ("5.", "5"),
        ("5..", "5.."),
        ("$5$, $6$", "$5$, $6$"),
        ("$", "$"),
        ("$$", "$$"),
    ],
)
def test_wrappers_around_the_whole_answer_go(marked: str, answer: str) -> None:
    assert extract_answer(rf"\boxed{{{marked}}}") == answer
    assert extract_answer(f"<answer> {marked} </answer>") == answer
    assert extract_answer(f"#### {marked}") == answer
