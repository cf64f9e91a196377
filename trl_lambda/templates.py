"""Prompt templates: from a problem to the text the model continues.

| Name | What the model sees | For |
|---|---|---|
| `qwen_math` | ChatML, `INSTRUCTION` as system prompt | Qwen2.5-Math |
| `r1` | the conversation of DeepSeek-R1-Zero, up to and with `<think>` | R1-Zero training |
| `none` | the problem alone | base models |
| `chat` | the tokenizer's chat template, `INSTRUCTION` after the problem | chat models |

In evaluation a completion ends at the model's end-of-sequence tokens, at `<|im_end|>` where the
tokenizer has it (`qwen_math`, `chat`), and after `</answer>` (`r1`). The first three prompts are
those of "Understanding R1-Zero-Like Training" (arXiv 2503.20783).
"""

from typing import Any

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
TEMPLATES = ("qwen_math", "r1", "none", "chat")
PLACE = "{prompt}"

_THINK = "<think>"
_TEXTS = {
    "qwen_math": (
        f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n"
        f"<|im_start|>user\n{PLACE}<|im_end|>\n<|im_start|>assistant\n"
    ),
    "r1": (
        "A conversation between User and Assistant. The User asks a question, and the Assistant "
        "solves it. The Assistant first thinks about the reasoning process in the mind and then "
        "provides the User with the answer. The reasoning process is enclosed within <think> "
        "</think> and answer is enclosed within <answer> </answer> tags, respectively, i.e., "
        "<think> reasoning process here </think> <answer> answer here </answer>.\n"
        f"User: {PLACE}\nAssistant: <think>"
    ),
    "none": PLACE,
    "chat": f"{PLACE}\n{INSTRUCTION}",  # what the user says
}
# Base models go on after the turn or the answer, with another problem and another answer.
_TURN_END = "<|im_end|>"
_STOP_TEXTS = {"r1": ["</answer>"]}


def check_template(template: str) -> None:
    """Raises a ValueError that lists the templates if this is none."""
    if template not in TEMPLATES:
        raise ValueError(f"template is {template!r}, expected one of {', '.join(TEMPLATES)}.")


def fill(problem: str, template: str) -> str:
    """Returns the template's text around the problem; of `chat` what the user says.

    Args:
        problem: The problem's text.
        template: One of `TEMPLATES`, or a text of one's own in which `{prompt}` stands for the
            problem.

    Raises:
        ValueError: The template is neither.
    """
    text = _TEXTS.get(template, template)
    if PLACE not in text:
        raise ValueError(
            f"template is {template!r}, expected one of {', '.join(TEMPLATES)}, or a text in which "
            f"{PLACE} stands for the problem."
        )
    return text.replace(PLACE, problem)


def render(problem: str, template: str, tokenizer: Any = None) -> str:
    """Returns the prompt's text.

    Args:
        problem: The problem's text.
        template: One of `TEMPLATES`.
        tokenizer: Needed for `chat` only.

    Raises:
        ValueError: The template is unknown, or `chat` and the tokenizer has no chat template.
    """
    check_template(template)
    if template != "chat":
        return fill(problem, template)
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "template is 'chat', but the tokenizer has no chat template, as with base models. "
            f"Expected one of {', '.join(TEMPLATES[:-1])}."
        )
    messages = [{"role": "user", "content": fill(problem, template)}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def encode(prompt: str, template: str, tokenizer: Any) -> list[int]:
    """Returns the prompt's token ids; a chat template has written its special tokens itself."""
    return tokenizer(prompt, add_special_tokens=template != "chat")["input_ids"]


def end_tokens(template: str, tokenizer: Any) -> list[int]:
    """Tokens that end a turn of the template, beside the model's end-of-sequence tokens."""
    if template not in ("qwen_math", "chat"):
        return []
    token = tokenizer.convert_tokens_to_ids(_TURN_END)
    return [] if token is None or token == tokenizer.unk_token_id else [token]


def stop_texts(template: str) -> list[str]:
    """Texts after which a completion ends; they belong to it."""
    return _STOP_TEXTS.get(template, [])


def response_text(prompt: str, completion: str) -> str:
    """What is graded: the completion, after `<think>` where the prompt has opened it.

    Else an answer in unfinished thoughts would count.
    """
    return _THINK + completion if prompt.rstrip().endswith(_THINK) else completion
