"""The card's "Use": it asks the model what it was trained to be asked."""

from __future__ import annotations

import ast
import re

import pytest
import tiny
import tiny_chat
from datasets import Dataset, IterableDataset
from peft import LoraConfig

from trl_lambda.data import prepare_prompts
from trl_lambda.hub.usage import LONGEST, QUESTION, PromptForm, prompt_form, use_section
from trl_lambda.templates import INSTRUCTION, fill, render

PROBLEMS = [f"What is {i} + {i * i}? Show\nyour {i}th work." for i in range(20)]
OWN = "Question: {prompt}\nAnswer:"


def rows(problems=PROBLEMS, **options) -> Dataset:
    return prepare_prompts(Dataset.from_list([{"prompt": p} for p in problems]), **options)


def stream(data: Dataset) -> IterableDataset:
    def refuse():
        raise AssertionError("a row was read")
        yield

    return IterableDataset.from_generator(refuse, features=data.features)


def code_of(text: str) -> str:
    return re.search(r"```python\n(.*?)\n```", text, re.S)[1]


def shown_prompt(text: str):
    """The value of `prompt` in the code."""
    (assigned,) = (
        node.value
        for node in ast.parse(code_of(text)).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "prompt"
    )
    return ast.literal_eval(assigned)


def shown(data, settings=None, **options):
    form = prompt_form(data, settings or {})
    options = {"repo": "a/b", "adapter": False, "max_new_tokens": 99} | options
    return use_section(form, **options)


@pytest.mark.parametrize("template", ["none", "qwen_math", "r1", OWN])
@pytest.mark.parametrize("told", [True, False])
def test_plain_text_is_asked_as_plain_text_in_its_template(template, told):
    text = shown(rows(template=template), {"template": template} if told else {})
    assert shown_prompt(text) == fill(QUESTION, template)
    assert "without a chat template" in text
    assert ("stop_sequence=['</answer>']" in text) == (template == "r1")
    assert ("with nothing around it" in text) == (template == "none")


def test_a_template_of_messages_that_has_the_model_think_and_no_chat():
    template = '<|user|>\n{prompt}\n<|assistant|>\n\\boxed{} \U0001f600 \u202e\'"""\n'
    text = shown(rows(template=template))
    assert shown_prompt(text) == fill(QUESTION, template)
    assert "\u202e" not in text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"conversational": True}, [{"role": "user", "content": QUESTION}]),
        ({"template": "chat"}, [{"role": "user", "content": f"{QUESTION}\n{INSTRUCTION}"}]),
        (
            {"conversational": True, "system_prompt": "Add."},
            [{"role": "system", "content": "Add."}, {"role": "user", "content": QUESTION}],
        ),
    ],
)
def test_messages_are_asked_as_messages(options, expected):
    text = shown(rows(**options), chat_template_kwargs={"thinking": False})
    assert shown_prompt(text) == expected
    assert "tokenizer_encode_kwargs={'thinking': False}" in text
    assert "put through the tokenizer's chat template" in text


def test_of_a_stream_no_row_is_read_and_the_settings_tell():
    data = stream(rows())
    assert prompt_form(data, {}) is None
    assert "not known" in shown(data)
    assert shown_prompt(shown(data, {"template": OWN})) == fill(QUESTION, OWN)
    chat = {"template": "chat", "system_prompt": "Add."}
    assert [m["role"] for m in shown_prompt(shown(data, chat))] == ["system", "user"]


def test_problems_that_begin_alike_are_no_template():
    form = prompt_form(rows([f"What is {i} + 7? Think." for i in range(20)]), {})
    assert (form.before, form.after) == ("", "")


def test_few_prompts_are_not_shown_to_the_public():
    assert prompt_form(rows(["secret\nproblem\n"] * 20), {}) == PromptForm(messages=False)


def test_a_setting_that_the_data_do_not_follow_is_not_believed():
    text = shown(rows(), {"template": "qwen_math", "conversational": True})
    assert shown_prompt(text) == QUESTION


def test_very_long_texts_around_are_left_out_and_said():
    text = shown(rows(template="x\n" * LONGEST + "{prompt}"))
    assert shown_prompt(text) == QUESTION
    assert "too long to be shown" in text


def test_the_card_of_plain_text_shows_no_chat_message(tmp_path):
    """Though the tokenizer has a chat template, as nearly all have."""
    trainer = tiny.trainer(
        tmp_path / "run",
        processing_class=tiny_chat.tokenizer(),
        model=tiny_chat.model(),
        train_dataset=rows(template="qwen_math"),
    )
    trainer.create_model_card()
    text = (tmp_path / "run" / "README.md").read_text()
    assert shown_prompt(text) == render(QUESTION, "qwen_math")
    assert '"role"' not in text
    assert "max_new_tokens=8" in text


@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_code_of_the_card_runs(hub, tmp_path, capsys, conversational, adapted):
    base = tmp_path / "base"
    tiny_chat.model().save_pretrained(base)
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trainer = tiny.trainer(
        tmp_path / "run",
        model=str(base),
        processing_class=tiny_chat.tokenizer(),
        train_dataset=rows(conversational=conversational),
        settings={"hub_model_id": "somebody/tiny", "model_init_kwargs": {"dtype": "float32"}},
        peft_config=lora if adapted else None,
    )
    trainer.push_to_hub()
    code = code_of(hub.repos["somebody/tiny"].files["README.md"].decode())
    capsys.readouterr()
    scope: dict = {}
    exec(code, scope)
    (answer,) = scope["answer"]
    assert isinstance(scope["prompt"], list) == conversational
    assert capsys.readouterr().out == f"{answer['generated_text']}\n"
