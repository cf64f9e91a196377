"""Where the report opens, and how it names prompts in a list."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_log import group

from trl_lambda.report.opening import (
    decided,
    has_credit,
    how_telling,
    largest_credit,
    most_credited,
    telling_group,
)
from trl_lambda.report.prompts import prompt_ends


def made(step, advantages, *, shared=False):
    """A group whose completion i has the advantage i on all of its four tokens."""
    rng = random.Random(0)
    one = group(str(step), step=step, size=len(advantages), tokens=4, rng=rng)
    for i, (row, advantage) in enumerate(zip(one["completions"], advantages, strict=True)):
        row["advantage"] = [advantage] * 4
        row["ids"] = [i // 2 if shared else i, 100 + i, 3, 4]
    return one


def test_the_largest_credit_keeps_its_sign_and_is_a_policy_tokens():
    row = {"advantage": [0.1, -0.33, None, 9.0], "mask": [1, 1, 1, 0]}
    assert largest_credit(row) == -0.33
    assert largest_credit({"advantage": [], "mask": []}) == 0.0


def test_the_completion_with_the_largest_credit_also_where_it_is_the_same_on_all_tokens():
    one = made(1, [0.0, -0.1, 2.6, -0.1])
    assert most_credited(one) is one["completions"][2]
    assert has_credit(one)
    assert not has_credit(made(1, [0.0, None]))


def test_the_newest_group_with_credit_is_told():
    old, new, without = made(1, [1.0, -1.0]), made(2, [1.0, -1.0]), made(3, [0.0, 0.0])
    assert telling_group([old, new, without]) is new
    assert telling_group([without]) is without
    assert telling_group([]) is None
    sharing = made(1, [1.0, 0.0, 0.0, -1.0], shared=True)
    assert telling_group([sharing, new]) is sharing
    sharing_without = made(4, [0.0] * 4, shared=True)
    assert telling_group([sharing_without, new]) is new


def test_a_fork_that_decided_is_told_first():
    """Completion 2 was forked from 0 behind two tokens, 3 is a copy of 1."""
    one, newer = made(1, [2.0, -1.0, -0.5, -1.0]), made(2, [2.0, -1.0])
    for row, (parent, fork) in zip(
        one["completions"], [(0, 0), (1, 0), (0, 2), (1, 4)], strict=True
    ):
        row |= {"parent": parent, "fork": fork, "reward": 1.0}
    assert how_telling(one) == how_telling(newer) == 1
    one["completions"][2]["reward"] = 0.0
    assert [decided(one, row) for row in one["completions"]] == [False, False, True, False]
    assert how_telling(one) == 2
    assert telling_group([one, newer]) is one
    assert most_credited(one) is one["completions"][2]
    one["completions"][2]["advantage"] = [0.0] * 4
    assert not decided(one, one["completions"][2])


def test_long_prompts_are_named_by_their_ends():
    prompts = [f"{'the same ' * 50}and then number {i}" for i in range(3)]
    shown = prompt_ends(prompts, 30)  # from the beginning of a word
    assert shown == [f"…the same and then number {i}" for i in range(3)]
    assert prompt_ends(["short"], 30) == ["short"]


def test_prompts_that_end_alike_show_what_stands_before_that():
    end = "<|im_end|>\n<|im_start|>assistant\n"
    shown = prompt_ends([f"{'x' * 100} question {i}?{end}" for i in range(3)], 60)
    assert all(f"question {i}" in text for i, text in enumerate(shown))
    assert len(set(shown)) == 3
    assert all(text.endswith("assistant\n") and text.startswith("…") for text in shown)


def test_one_and_the_same_prompt_shows_its_end():
    assert prompt_ends(["a" * 100 + " the end"] * 3, 20)[0].endswith("the end")


@given(st.lists(st.text(max_size=80), min_size=1, max_size=5), st.integers(6, 60))
def test_names_are_short_and_tell_prompts_apart_where_their_ends_do(prompts, length):
    shown = prompt_ends(prompts, length)
    assert len(shown) == len(prompts)
    assert all(len(text) <= length + 2 for text in shown)
    for text, prompt in zip(shown, prompts, strict=True):
        assert prompt.endswith(text.split("…")[-1]) or "…" in prompt


@pytest.mark.parametrize("length", [6, 60])
def test_short_prompts_are_whole(length):
    assert prompt_ends(["ab", "cd"], length) == ["ab", "cd"]
