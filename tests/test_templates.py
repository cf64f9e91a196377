"""Prompts, and what of the text is graded."""

import pytest
import tiny
import tiny_chat

from trl_lambda.rewards import grade
from trl_lambda.templates import (
    INSTRUCTION,
    TEMPLATES,
    encode,
    end_tokens,
    render,
    response_text,
    stop_texts,
)

PROBLEM = "what is 1+1 @ {0} \\frac12?"


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_problem_is_in_the_prompt_once_and_unchanged(template):
    assert render(PROBLEM, template, tiny_chat.tokenizer()).count(PROBLEM) == 1


def test_worked_prompts():
    assert render("P", "none") == "P"
    assert render("P", "qwen_math") == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within "
        "\\boxed{}.<|im_end|>\n<|im_start|>user\nP<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render("P", "r1").endswith("</answer>.\nUser: P\nAssistant: <think>")
    assert render("P", "chat", tiny_chat.tokenizer()) == f"u:P\n{INSTRUCTION}<eos>a:"


def test_an_answer_in_unfinished_thoughts_does_not_count():
    prompt = render("1+1=", "r1")
    thinking, done = r"so \boxed{2} maybe", r"so 3 maybe </think> <answer>2</answer>"
    assert not grade(response_text(prompt, thinking), "2").correct
    assert grade(response_text(prompt, done), "2").correct
    assert grade(response_text(render("1+1=", "qwen_math"), thinking), "2").correct


def test_special_tokens_are_added_once():
    class Tokenizer:
        def __call__(self, text, *, add_special_tokens):
            return {"input_ids": [0] * add_special_tokens + [1]}

    assert encode("P", "qwen_math", Tokenizer()) == [0, 1]
    assert encode("P", "chat", Tokenizer()) == [1]


def test_the_ends_of_templates():
    tokenizer = tiny_chat.tokenizer()
    assert [end_tokens(name, tokenizer) for name in TEMPLATES] == [[], [], [], []]
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    end = tokenizer("<|im_end|>")["input_ids"]
    assert [end_tokens(name, tokenizer) for name in TEMPLATES] == [end, [], [], end]
    assert [stop_texts(name) for name in TEMPLATES] == [[], ["</answer>"], [], []]


def test_templates_that_cannot_be():
    with pytest.raises(ValueError, match="template is 'llama', expected one of qwen_math, r1"):
        render("P", "llama")
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        render("P", "chat", tiny.tokenizer())
