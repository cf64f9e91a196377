"""Prompt templates: from a problem to the text the model continues.

| Name | What the model sees | For |
|---|---|---|
| `qwen_math` | ChatML, `INSTRUCTION` as system prompt | Qwen2.5-Math |
| `r1` | the conversation of DeepSeek-R1-Zero, up to and with `<think>` | R1-Zero training |
| `none` | the problem alone | base models |
| `chat` | the tokenizer's chat template, `INSTRUCTION` after the problem | chat models |

Beside these, a text of one's own in which `{prompt}` stands for the problem is a template, and any
but `qwen_math` and `r1` can become a user's message (`conversational`), with a system message
before it. Training (`trl_lambda.data.write_prompts`) and evaluation make their prompts with the
same `PromptForm`, so that a model is asked in both what it is asked in one.

In evaluation a completion ends at the model's end-of-sequence tokens, at `<|im_end|>` where the
tokenizer has it (`qwen_math`, `chat`), and after `</answer>` (`r1`). In training a model may write
on after `</answer>`, as TRL ends completions at tokens only; the math reward reads none of that.
Both grade `response_text`. The first three prompts are those of "Understanding R1-Zero-Like
Training" (arXiv 2503.20783).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

Messages: TypeAlias = list[dict[str, Any]]

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
TEMPLATES = ("qwen_math", "r1", "none", "chat")
PLACE = "{prompt}"
OPENING_COLUMN = "response_opening"

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
    "chat": f"{PLACE}\n{INSTRUCTION}",  # the user's message
}
_R1_END = _TEXTS["r1"].rpartition(PLACE)[2]
# Base models go on after the turn or the answer, with another problem and another answer.
_TURN_END = "<|im_end|>"
_STOP_TEXTS = {"r1": ["</answer>"]}


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


def check_template_options(template: str, conversational: bool, system_prompt: str | None) -> None:
    """Raises ValueError for a template that is none, and for two that would be nested."""
    fill("", template)
    if template in ("qwen_math", "r1"):
        for option, given in (("conversational", conversational), ("system_prompt", system_prompt)):
            if given:
                raise ValueError(
                    f"template {template} writes the turns of the conversation itself, and "
                    f"{option} would put them inside others: leave {option} out, or use template "
                    "chat."
                )


def check_chat_template(tokenizer: Any) -> None:
    """Raises ValueError if a tokenizer cannot turn messages into a text."""
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "Prompts are messages, but the tokenizer has no chat template, as with base models. "
            "Use texts: template none, qwen_math, r1 or one of your own, without conversational."
        )


@dataclass(frozen=True)
class PromptForm:
    """The form that a prompt is brought into; by default it stays as it is.

    Attributes:
        template: As `fill` takes it.
        conversational: Whether a text becomes a user's message; with `chat` it always does.
        system_prompt: A message to put before.
    """

    template: str = "none"
    conversational: bool = False
    system_prompt: str | None = None

    def apply(self, prompt: str | Messages) -> str | Messages:
        """The prompt as TRL wants it.

        Args:
            prompt: A text, or messages already, which get a system message at most.

        Raises:
            ValueError: The options do not go with what the prompt is.
        """
        if isinstance(prompt, str):
            text = fill(prompt, self.template)
            if self.conversational or self.template == "chat":
                return self._after_system([{"role": "user", "content": text}])
            if self.system_prompt is not None:
                raise ValueError(
                    "system_prompt: plain texts have no roles. Make them messages with "
                    "conversational or with template chat."
                )
            return text
        if self.template != "none" or self.conversational:
            raise ValueError(
                f"template {self.template}, conversational {self.conversational}: expected prompts "
                f"that are texts, got {type(prompt).__name__}. Prompts that are messages already "
                "need neither."
            )
        return self._after_system(prompt)

    def _after_system(self, messages: Messages) -> Messages:
        if self.system_prompt is None:
            return messages
        if messages[0]["role"] == "system":
            raise ValueError(
                "system_prompt: the prompts have a system message already; leave the option out."
            )
        return [{"role": "system", "content": self.system_prompt}, *messages]


def as_text(
    prompt: str | Messages,
    tokenizer: Any = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Returns the text that the model continues: messages go through the chat template.

    Args:
        prompt: The result of `PromptForm.apply`.
        tokenizer: Needed for messages only.
        chat_template_kwargs: As in `GRPOConfig`.

    Raises:
        ValueError: The prompt is messages, and the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        return prompt
    check_chat_template(tokenizer)
    return tokenizer.apply_chat_template(
        prompt, tokenize=False, add_generation_prompt=True, **(chat_template_kwargs or {})
    )


def render(problem: str, template: str, tokenizer: Any = None) -> str:
    """Returns the prompt's text, as `as_text` and `PromptForm` make it.

    Args:
        problem: The problem's text.
        template: As `fill` takes it.
        tokenizer: Needed for `chat` only.

    Raises:
        ValueError: The template is unknown, or `chat` and the tokenizer has no chat template.
    """
    return as_text(PromptForm(template).apply(problem), tokenizer)


def encode(prompt: str, template: str, tokenizer: Any) -> list[int]:
    """Returns the token ids of a prompt's text.

    A chat template has written its special tokens itself: `template` is `chat` for every prompt
    that was made of messages.
    """
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


def opening(prompt: str) -> str:
    """How the response begins in the prompt's text: with `<think>`, or with nothing."""
    return _THINK if prompt.rstrip().endswith(_THINK) else ""


def response_text(prompt: str, completion: str) -> str:
    """The text that is graded: the completion behind its opening, up to where the template ends it.

    Without the opening, an answer in unfinished thoughts would count.

    Args:
        prompt: The text that the model continued.
        completion: The text that it wrote.
    """
    if prompt.endswith(_R1_END):
        for stop in stop_texts("r1"):
            kept, stopped, _ = completion.partition(stop)
            completion = kept + stopped
    return opening(prompt) + completion


def with_openings(
    rows: list[dict[str, Any]], tokenizer: Any, chat_template_kwargs: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The rows of a batch, with how their responses begin where a reward cannot see it.

    Prompts that are messages do not show that the chat template ends them in `<think>`. The column
    `response_opening` says so; a data set's own column of this name stands. All other rows come
    back as they are, also where the tokenizer parses responses: TRL then hands on messages without
    their thoughts.

    Args:
        rows: With a `prompt` each; those of a group follow each other.
        tokenizer: The trainer's processing class.
        chat_template_kwargs: As in `GRPOConfig`.
    """
    text = getattr(tokenizer, "tokenizer", tokenizer)
    parses = (getattr(text, name, None) for name in ("response_template", "response_schema"))
    opens = _THINK in str(getattr(tokenizer, "chat_template", None))
    if not opens or any(parses) or any(isinstance(row["prompt"], str) for row in rows):
        return rows
    opened: list[dict[str, Any]] = []
    for prompt, group in groupby(rows, itemgetter("prompt")):
        begins = opening(as_text(prompt, tokenizer, chat_template_kwargs))
        opened += [{OPENING_COLUMN: begins, **row} for row in group]
    return opened
