"""Where segments end: lines and turns, numbers of tokens, functions."""

import pytest
import torch
from asked import completions, tokenizer

from trl_lambda.probe.step_ends import MAX_SEGMENTS, StepEnds


def numbers(rule, text: str, mask=None):
    ids = torch.tensor(completions([text]))
    mask = torch.ones_like(ids) if mask is None else torch.tensor([mask])
    return StepEnds(rule, tokenizer().decode).numbers(ids, mask)[0].tolist()


def test_a_line_and_the_last_of_blank_lines():
    assert numbers("newline", "a\nb\n\nc") == [0, 0, 1, 1, 1, 2, 2]
    assert numbers("newline", "abc") == [0, 0, 0, 0]
    assert numbers("newline", "\na") == [0, 1, 1]


def test_a_turn_of_the_policy_ends_a_segment():
    """Two tokens of a tool in the middle."""
    assert numbers("newline", "abcd", [1, 1, 0, 0, 1]) == [0, 0, -1, -1, 1]


def test_a_number_of_policy_tokens():
    assert numbers(2, "abcd") == [0, 0, 1, 1, 2]
    assert numbers(2, "abcd", [1, 0, 1, 1, 1]) == [0, -1, 0, 1, 1]
    assert numbers(9, "abcd") == [0] * 5


def test_a_function_sees_ids_and_texts_of_the_completion_without_padding():
    seen = []

    def step_ends(ids, texts):
        seen.append((ids, texts))
        return (t for t, text in enumerate(texts) if text == "b")

    ids = torch.tensor([[*completions(["ab"])[0], -1], completions(["bab"])[0]])
    found = StepEnds(step_ends, tokenizer().decode).numbers(ids, (ids >= 0).long())
    assert found.tolist() == [[0, 0, 1, -1], [0, 1, 1, 2]]
    assert [texts for _, texts in seen] == [["a", "b", "<eos>"], ["b", "a", "b", "<eos>"]]


def halves(ids, texts):
    return [len(ids) // 2]


def test_a_function_by_its_dotted_path(monkeypatch):
    assert numbers("test_step_ends.halves", "abcd") == [0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"^step_ends='no_module.f': importing no_module failed"):
        StepEnds("no_module.f", tokenizer().decode)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ([5], ValueError, r"returned 5 for a completion of 5 tokens; expected indices"),
        ([-1], ValueError, r"returned -1 for a completion"),
        (None, TypeError, r"returned None; expected a list of indices"),
        (["a"], TypeError, r"returned \['a'\]; expected a list of indices"),
    ],
)
def test_what_is_no_index_is_named(returned, error, message):
    with pytest.raises(error, match=message) as caught:
        numbers(lambda ids, texts: returned, "abcd")
    assert "step_ends 'test_step_ends." in str(caught.value)


def test_more_segments_than_are_asked_are_joined_evenly():
    found = numbers(1, "a" * (3 * MAX_SEGMENTS - 1))
    assert found == [t // 3 for t in range(3 * MAX_SEGMENTS)]
    assert max(numbers(1, "a" * 99)) == MAX_SEGMENTS - 1
