"""The card's "Use": a prompt of the form that the model was trained on, as code to paste."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset

from ..templates import PLACE, TEMPLATES, fill, stop_texts
from .markdown import code_block, code_span

QUESTION = "What is 7 * 8?"
ROWS = 64  # so many of the data set are looked at
FEWEST = 8  # different prompts, below which what they share may be one of them
LONGEST = 4000  # characters of a template in the card


@dataclass(frozen=True)
class PromptForm:
    """The form that the prompts of a data set have in common.

    Attributes:
        messages: whether they are messages, which the tokenizer's chat template makes a text.
        template: a name of `trl_lambda.templates`, where it is one of these.
        before, after: texts around the problem, in the last message or in the plain text.
        system: the system message.
    """

    messages: bool
    template: str | None = None
    before: str = ""
    after: str = ""
    system: str | None = None


def prompt_form(dataset: Any, settings: Mapping[str, Any]) -> PromptForm | None:
    """The form of the prompts; None where nothing tells it.

    Args:
        dataset: the training set. A stream's rows are not read: a stream can be at one place only.
        settings: the script's; `template`, `conversational` and `system_prompt` are what
            `recipes/grpo_lambda.py` calls them.
    """
    prompts = _prompts(dataset)
    if not prompts:
        return _form_of_settings(settings)
    if isinstance(prompts[0], str):
        return _around(prompts, PromptForm(messages=False), settings)
    asked = [text for prompt in prompts if (text := _content(prompt[-1:], "user")) is not None]
    systems = {_content(prompt[:1], "system") for prompt in prompts}
    form = PromptForm(messages=True, system=systems.pop() if len(systems) == 1 else None)
    return _around(asked, form, settings)


def use_section(
    form: PromptForm | None,
    *,
    repo: str,
    adapter: bool,
    max_new_tokens: int,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Text and code: how to load the model and ask it what it was trained to be asked."""
    if form is None:
        form = PromptForm(messages=False)
        said = "How its prompts looked is not known here; this one is plain text."
    else:
        said = _described(form)
    if len(form.before + form.after + (form.system or "")) > LONGEST:
        said += " The texts around each problem were too long to be shown here."
        form = replace(form, before="", after="", system=None)
    options = {"max_new_tokens": max_new_tokens, "return_full_text": False}
    if form.messages and chat_template_kwargs:
        options["tokenizer_encode_kwargs"] = dict(chat_template_kwargs)
    if form.template and (stops := stop_texts(form.template)):
        options["stop_sequence"] = stops
    arguments = ", ".join(f"{name}={_literal(value)}" for name, value in options.items())
    code = [
        *_loading(repo, adapter=adapter),
        f"prompt = {_prompt(form)}",
        f"answer = generator(prompt, {arguments})",
        'print(answer[0]["generated_text"])',
    ]
    return f"## Use\n\n{said}\n\n" + code_block("\n".join(code), "python")


def _prompts(dataset: Any) -> list[Any]:
    """The first prompts of a data set; none of a stream, and none that are empty."""
    if not isinstance(dataset, Dataset) or "prompt" not in dataset.column_names:
        return []
    # As they are stored: a transform may be slow, or draw random numbers.
    return [prompt for prompt in dataset.with_format(None)[:ROWS]["prompt"] if prompt]


def _form_of_settings(settings: Mapping[str, Any]) -> PromptForm | None:
    template, conversational = settings.get("template"), settings.get("conversational")
    if template is None and not conversational:
        return None
    around = _sides(template or "none") or ("", "")
    return PromptForm(
        bool(conversational) or template == "chat",
        template if template in TEMPLATES else None,
        *around,
        system=settings.get("system_prompt"),
    )


def _content(messages: Sequence[Mapping[str, Any]], role: str) -> str | None:
    """The text of the message, if there is one of that role and it is text."""
    for message in messages:
        if message.get("role") == role and isinstance(message.get("content"), str):
            return message["content"]
    return None


def _around(texts: list[str], form: PromptForm, settings: Mapping[str, Any]) -> PromptForm:
    """The form with the template that all texts follow, or with the whole lines that they share."""
    for template in (settings.get("template"), *TEMPLATES):
        sides = _sides(template) if isinstance(template, str) else None
        if texts and sides and all(_is_between(text, *sides) for text in texts):
            name = template if template in TEMPLATES else None
            if name != "none":
                return replace(form, template=name, before=sides[0], after=sides[1])
    before, after = _shared(texts)
    return replace(form, before=before, after=after)


def _sides(template: str) -> tuple[str, str] | None:
    """The texts around the problem; None for a template that repeats it, or that is none."""
    if template not in TEMPLATES and PLACE not in template:
        return None
    sides = fill(PLACE, template).split(PLACE)
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _is_between(text: str, before: str, after: str) -> bool:
    long_enough = len(text) >= len(before) + len(after)
    return long_enough and text.startswith(before) and text.endswith(after)


def _shared(texts: list[str]) -> tuple[str, str]:
    """Beginning and end that all texts share, cut where a line or a label ends.

    Problems may begin alike ("What is "): what is shared by chance ends inside a line.
    """
    if len(set(texts)) < FEWEST:
        return "", ""
    before = _common_beginning(texts)
    cut = max(before.rfind("\n"), before.rfind(": ") + 1 if ": " in before else -1)
    before = before[: cut + 1]
    after = _common_beginning([text[len(before) :][::-1] for text in texts])[::-1]
    return before, after[after.index("\n") :] if "\n" in after else ""


def _common_beginning(texts: list[str]) -> str:
    first, last = min(texts), max(texts)  # all others stand between them
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))]


def _described(form: PromptForm) -> str:
    around = "" if not form.template else f" Template: {code_span(form.template)}."
    if form.messages:
        return "It was trained on messages, put through the tokenizer's chat template." + around
    if form.before or form.after:
        return (
            "It was trained on plain text, without a chat template, with the texts below around "
            f"each problem.{around}"
        )
    return "It was trained on plain text, without a chat template and with nothing around it."


def _loading(repo: str, *, adapter: bool) -> list[str]:
    if not adapter:
        return [
            "from transformers import pipeline\n",
            f'generator = pipeline("text-generation", model="{repo}", device_map="auto")',
        ]
    return [
        "from peft import AutoPeftModelForCausalLM",
        "from transformers import AutoTokenizer, pipeline\n",
        f'model = AutoPeftModelForCausalLM.from_pretrained("{repo}", device_map="auto")',
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}")',
        'generator = pipeline("text-generation", model=model, tokenizer=tokenizer)',
    ]


def _prompt(form: PromptForm) -> str:
    text = form.before + QUESTION + form.after
    if not form.messages:
        return _lines(text.splitlines(keepends=True))
    messages = [] if form.system is None else [("system", form.system)]
    messages.append(("user", text))
    rows = [
        f'    {{"role": "{role}", "content": {_literal(content)}}},\n' for role, content in messages
    ]
    return f"[\n{''.join(rows)}]"


def _lines(lines: Iterable[str]) -> str:
    parts = [_literal(line) for line in lines]
    return parts[0] if len(parts) == 1 else "".join(["(\n", *(f"    {p}\n" for p in parts), ")"])


def _literal(value: Any) -> str:
    """Python that means the value: no character in it is invisible or moves others."""
    literal = ascii(value)
    if isinstance(value, str) and '"' not in value:
        return '"{}"'.format(literal[1:-1].replace("\\'", "'"))
    return literal
