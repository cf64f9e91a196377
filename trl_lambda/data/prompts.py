"""Prompts as TRL wants them and golds as the rewards want them, from rows of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Features, List, Value

from ..rewards.golds import gold_texts
from ..rewards.trl_reward import GOLD_COLUMNS
from ..templates import end_tokens, fill
from .rows import Data, column_names, filtered, first_row, keep_rows, require_columns


def prepare_prompts(
    data: Data,
    *,
    prompt_column: str = "prompt",
    answer_column: str | None = None,
    template: str = "none",
    conversational: bool = False,
    system_prompt: str | None = None,
    conditions: Iterable[str] = (),
    max_prompt_length: int | None = None,
    tokenizer: Any = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Data:
    r"""Rows ready for `LambdaGRPOTrainer`: the functions below, one after the other.

    Args:
        data: The rows; columns that are not named here stay, for the reward functions.
        prompt_column: The column with the problems; becomes `prompt`.
        answer_column: See `add_answers`; None leaves the golds to the reward.
        template, conversational, system_prompt: See `write_prompts`.
        conditions: See `keep_rows`.
        max_prompt_length: See `drop_long_prompts`; None for any length.
        tokenizer: The trainer's processing class; needed for `max_prompt_length`, else only to
            check that messages have a chat template.
        chat_template_kwargs: As in `GRPOConfig`; for the count of tokens.

    Raises:
        ValueError: A column is missing, options that contradict each other, or no row is left.
    """
    data = keep_rows(data, conditions)
    if answer_column is not None:
        data = add_answers(data, answer_column)
    data = write_prompts(
        data,
        prompt_column,
        template=template,
        conversational=conversational,
        system_prompt=system_prompt,
    )
    if max_prompt_length is not None:
        data = drop_long_prompts(
            data, max_prompt_length, tokenizer, chat_template_kwargs=chat_template_kwargs
        )
    # A stream's rows are tested as they are read: here it shows whether any passes.
    first = first_row(data, "No row passes all of keep_rows, answer_column and max_prompt_length.")
    if tokenizer is not None and not isinstance(first["prompt"], str):
        _check_chat_template(tokenizer)
    return data


def add_answers(data: Data, column: str) -> Data:
    r"""The golds of `column` as the column `answers`: lists of LaTeX texts, any of which is right.

    An entry is the answer itself, bare or in `$…$`, a number, a worked solution that ends in
    `\boxed{}` (MATH) or `#### …` (GSM8K), or a list of them. Rows without a readable gold are left
    out. `column` itself stays.

    Raises:
        ValueError: No such column, another one called `answers`, an entry of another type, or no
            row left.
    """
    require_columns(data, [column], "answer_column")
    if column != "answers" and "answers" in column_names(data):
        raise ValueError(
            f"answer_column {column}: the data set has a column answers besides. Leave the option "
            "out to use that one, or drop it from the data set."
        )
    features = None if data.features is None else data.features | {"answers": List(Value("string"))}
    data = data.map(
        _with_answers, fn_kwargs={"column": column}, features=features and Features(features)
    )
    return filtered(
        data, _has_answers, name=f"answer_column {column}", remedy="No entry is a readable gold"
    )


def check_answers(data: Data) -> None:
    """Raises ValueError unless there is a column of golds that `math_reward` reads."""
    there = column_names(data)
    if not set(GOLD_COLUMNS) & set(there):
        raise ValueError(
            f"The math reward needs golds in a column {', '.join(GOLD_COLUMNS[:-1])} or "
            f"{GOLD_COLUMNS[-1]}; the data set has {', '.join(there)}. Name the one that holds "
            "them with answer_column."
        )


def write_prompts(
    data: Data,
    column: str = "prompt",
    *,
    template: str = "none",
    conversational: bool = False,
    system_prompt: str | None = None,
) -> Data:
    """`column` as `prompt`, in the form TRL wants: a text or a list of messages.

    Args:
        data: Rows whose `column` holds texts, or lists of messages already, which get a system
            message at most. Rows with an empty prompt are left out.
        column: It is renamed.
        template: A name of `trl_lambda.templates` or a text of one's own in which `{prompt}`
            stands for the problem.
        conversational: Make it a user's message, so that the model's chat template is used;
            `template="chat"` always does.
        system_prompt: A message to put before.

    Raises:
        ValueError: no such column, another one already called `prompt`, a template that is none,
            options that do not go together or with what the prompts are, or no row left.
    """
    check_template_options(template, conversational, system_prompt)
    require_columns(data, [column], "prompt_column")
    if column != "prompt":
        if "prompt" in column_names(data):
            raise ValueError(
                f"prompt_column {column}: the data set has a column named prompt besides. Leave "
                "the option out to train on that one, or drop it from the data set."
            )
        data = data.rename_column(column, "prompt")
    data = filtered(
        data, _has_prompt, name=f"prompt_column {column}", remedy="All prompts are empty"
    )
    form = PromptForm(template, conversational or template == "chat", system_prompt)
    return data if form == PromptForm() else data.map(_with_prompt, fn_kwargs={"form": form})


def end_turns(tokenizer: Any, template: str) -> list[int]:
    """Makes the tokenizer's end-of-sequence token the one that ends a turn of `qwen_math`.

    Base models have another, would never stop there, and count as truncated. A tokenizer without
    the token, and other templates, are left as they are.

    Returns:
        The token, for an engine with a tokenizer of its own (`stop_token_ids` in vLLM); else none.
    """
    text = getattr(tokenizer, "tokenizer", tokenizer)
    ends = end_tokens(template, text) if template == "qwen_math" else []
    if ends and text.eos_token_id not in ends:
        if text.pad_token is None:
            text.pad_token = text.eos_token
        text.eos_token = text.convert_ids_to_tokens(ends[0])
    return ends


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


def drop_long_prompts(
    data: Data,
    max_prompt_length: int,
    tokenizer: Any,
    *,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Data:
    """The rows whose `prompt` has at most `max_prompt_length` tokens, as the trainer counts them.

    Args:
        data: Rows with `prompt`, texts or messages; chat template and special tokens are counted.
        max_prompt_length: In tokens.
        tokenizer: The trainer's processing class.
        chat_template_kwargs: As in `GRPOConfig`.

    Raises:
        ValueError: A limit below 1, no tokenizer, messages without a chat template, or no row left.
    """
    if max_prompt_length < 1:
        raise ValueError(f"max_prompt_length is {max_prompt_length}, expected at least 1 token.")
    if tokenizer is None:
        raise ValueError(
            "max_prompt_length needs a tokenizer to count tokens with; none was given."
        )
    options = {
        "max_prompt_length": max_prompt_length,
        "tokenizer": tokenizer,
        "chat_template_kwargs": dict(chat_template_kwargs or {}),
    }
    return filtered(
        data,
        _are_short,
        options,
        batched=True,
        name=f"max_prompt_length {max_prompt_length}",
        remedy="All prompts have more tokens, template and system prompt included",
    )


def prompt_lengths(
    prompts: Sequence[Any], tokenizer: Any, chat_template_kwargs: Mapping[str, Any]
) -> list[int]:
    """Tokens of each prompt, counted as GRPOTrainer does."""
    if isinstance(prompts[0], str):
        return list(map(len, tokenizer(text=prompts)["input_ids"]))
    _check_chat_template(tokenizer)
    tokens = tokenizer.apply_chat_template(
        conversation=prompts,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        **chat_template_kwargs,
    )
    return list(map(len, tokens["input_ids"]))


def _check_chat_template(tokenizer: Any) -> None:
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "Prompts are messages, but the tokenizer has no chat template, as with base models. "
            "Use texts: template none, qwen_math, r1 or one of your own, without conversational."
        )


@dataclass(frozen=True)
class PromptForm:
    """What becomes of a prompt; by default nothing."""

    template: str = "none"
    conversational: bool = False
    system_prompt: str | None = None

    def apply(self, prompt: Any) -> str | list[dict[str, Any]]:
        if isinstance(prompt, str):
            text = fill(prompt, self.template)
            if self.conversational:
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

    def _after_system(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.system_prompt is None:
            return messages
        if messages[0]["role"] == "system":
            raise ValueError(
                "system_prompt: the prompts have a system message already; leave the option out."
            )
        return [{"role": "system", "content": self.system_prompt}, *messages]


# The tests are functions at the top of the module, so that `datasets` can cache what they gave.


def _with_answers(row: Mapping[str, Any], column: str) -> dict[str, list[str]]:
    try:
        return {"answers": [gold for gold in gold_texts(row[column]) if gold]}
    except TypeError as error:
        raise ValueError(f"answer_column {column}: {error}") from error


def _has_answers(row: Mapping[str, Any]) -> bool:
    return bool(row["answers"])


def _has_prompt(row: Mapping[str, Any]) -> bool:
    prompt = row["prompt"]
    return bool(prompt.strip() if isinstance(prompt, str) else prompt)


def _with_prompt(row: Mapping[str, Any], form: PromptForm) -> dict[str, Any]:
    return {"prompt": form.apply(row["prompt"])}


def _are_short(
    rows: Mapping[str, Sequence[Any]],
    tokenizer: Any,
    chat_template_kwargs: Mapping[str, Any],
    max_prompt_length: int,
) -> list[bool]:
    lengths = prompt_lengths(rows["prompt"], tokenizer, chat_template_kwargs)
    return [length <= max_prompt_length for length in lengths]
