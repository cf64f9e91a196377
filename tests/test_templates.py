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
    with_openings,
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


def test_after_r1_a_response_ends_with_its_first_answer():
    """As evaluation ends it; what a model writes beyond is another problem's."""
    first = r"so 3 </think> <answer>2</answer>"
    beyond = f"{first}\nUser: 2+2=\nAssistant: <think> </think> <answer>4</answer>"
    assert response_text(render("1+1=", "r1"), beyond) == f"<think>{first}"
    assert response_text("Say. <think>\n", beyond) == f"<think>{beyond}"
    assert response_text(render("1+1=", "qwen_math"), beyond) == beyond


MESSAGES = [{"role": "user", "content": "1+1="}]
ROWS = [{"prompt": MESSAGES, "gold": "2"}, {"prompt": MESSAGES, "gold": "3"}]


def thinking_tokenizer(ending="a:<think>\n"):
    tokenizer = tiny_chat.tokenizer()
    tokenizer.response_template = None
    tokenizer.chat_template = (
        "{% for m in messages %}u:{{ m.content }}{% endfor %}"
        "{% if thinking is not defined or thinking %}" + ending + "{% else %}a:{% endif %}"
    )
    return tokenizer


def test_the_opening_of_a_chat_template_becomes_a_column():
    rows = with_openings(ROWS, thinking_tokenizer(), None)
    assert rows == [row | {"response_opening": "<think>"} for row in ROWS]
    rows = with_openings(ROWS, thinking_tokenizer(), {"thinking": False})
    assert rows == [row | {"response_opening": ""} for row in ROWS]


def test_other_rows_stay_as_they_are():
    assert with_openings(ROWS, tiny_chat.tokenizer(), None) is ROWS
    assert with_openings(ROWS, tiny.tokenizer(), None) is ROWS
    texts = [{"prompt": "1+1= <think>"}]
    assert with_openings(texts, thinking_tokenizer(), None) is texts
    parsing = thinking_tokenizer()
    parsing.response_template = tiny_chat.RESPONSE_TEMPLATE
    assert with_openings(ROWS, parsing, None) is ROWS
    own = [ROWS[0] | {"response_opening": ""}]
    assert with_openings(own, thinking_tokenizer(), None) == own
