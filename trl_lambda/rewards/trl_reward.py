"""The grading as a TRL reward function."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trl_lambda.rewards.grading import grade_many
from trl_lambda.rewards.verdict import REASONS
from trl_lambda.templates import response_text

GOLD_COLUMNS = ("answers", "answer", "solution")

# Arguments that trainers pass beside the columns of the data set.
_TRAINER_ARGUMENTS = {"completion_ids", "trainer_state", "environments"}

Message = Mapping[str, Any]


def math_reward(
    completions: Sequence[str] | Sequence[Sequence[Message]],
    *,
    prompts: Sequence[str] | Sequence[Sequence[Message]] | None = None,
    response_opening: Sequence[str] | None = None,
    log_extra: Callable[[str, list[str | None]], None] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float | None]:
    r"""Rewards a completion with 1 if it ends in the right answer, else with 0.

    For `reward_funcs` of TRL's trainers. The gold answers come from the first of the data set's
    columns `answers`, `answer` and `solution` that is there; an entry is what `grade` takes as
    `golds`. The answer must be marked, see `trl_lambda.rewards`.

    Where the prompt ends in `<think>`, the response begins there: an answer in thoughts that never
    close does not count, in training as in evaluation. After the template `r1` the response ends
    with the first `</answer>`.

    Args:
        completions: Texts, or lists of messages, of which the last is graded.
        prompts: Texts, or lists of messages.
        response_opening: `<think>` where the chat template ends prompts that are messages in it,
            else `""`. `LambdaGRPOTrainer` passes it where it matters; with another trainer it can
            be a column of the data set.
        log_extra: The trainer's; gets the columns `math_reason` and `math_answer` of the table of
            completions.
        log_metric: The trainer's; gets `math_reward/<reason>`, the share of each reason in the
            batch.
        **columns: The data set's columns, one entry a completion, and what else TRL passes.

    Returns:
        1.0 or 0.0 for each completion; `None`, which TRL leaves out, where the gold is unreadable.

    Raises:
        ValueError: None of the three columns is there.
    """
    texts = _responses(completions, prompts, response_opening)
    grades = grade_many(texts, _golds(columns))
    if log_extra is not None:
        log_extra("math_reason", [grade.reason for grade in grades])
        log_extra("math_answer", [_printable(grade.extracted) for grade in grades])
    if log_metric is not None and grades:
        counts = Counter(grade.reason for grade in grades)
        for reason in REASONS:
            log_metric(f"math_reward/{reason}", counts[reason] / len(grades))
    return [
        None if grade.reason == "unparseable_gold" else float(grade.correct) for grade in grades
    ]


def _responses(
    completions: Sequence[Any], prompts: Sequence[Any] | None, openings: Sequence[str] | None
) -> list[str]:
    """The texts to grade, each behind its opening."""
    texts = [_text(completion) for completion in completions]
    if openings is not None:
        return [f"{opened or ''}{text}" for opened, text in zip(openings, texts, strict=True)]
    if prompts is None:
        return texts
    return [
        response_text(prompt, text) if isinstance(prompt, str) else text
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def _golds(columns: Mapping[str, Any]) -> Sequence[Any]:
    for name in GOLD_COLUMNS:
        if columns.get(name) is not None:
            return columns[name]
    there = sorted(name for name in columns if name not in _TRAINER_ARGUMENTS)
    raise ValueError(
        "math_reward: no gold answers. Expected a column named one of "
        f"{', '.join(GOLD_COLUMNS)}; the data set has {', '.join(there) or 'no further columns'}. "
        "Rename the column that holds the answers, e.g. "
        "dataset.rename_column('<yours>', 'answer')."
    )


def _text(completion: str | Sequence[Message]) -> str:
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else None
    if content is None:  # A turn that only calls a tool says nothing.
        return ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _printable(answer: str | None) -> str | None:
    """The answer without lone surrogates, on which writing the table would fail."""
    return None if answer is None else answer.encode("utf-8", "replace").decode("utf-8")
