"""Scores of samples: by the math reward, and by any other reward function of a training.

The math reward is our grading, whose verdicts make avg@k, pass@k and maj@k. Other functions are
called as TRL's trainers call theirs and give numbers of their own.
"""

import asyncio
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, TypeAlias

from trl_lambda.evaluation.generate import Completion
from trl_lambda.evaluation.problem_rows import Problem
from trl_lambda.rewards import Grade, grade_many, math_reward
from trl_lambda.templates import Messages, response_text

RewardFunction: TypeAlias = Callable[..., Any]
Rewards: TypeAlias = Mapping[str, RewardFunction]  # by the names that the tables show

MATH: Rewards = {"math": math_reward}


def judges_math(rewards: Rewards) -> bool:
    """Whether the math reward is among them."""
    return any(function is math_reward for function in rewards.values())


def others(rewards: Rewards) -> Rewards:
    """The functions beside the math reward."""
    return {name: function for name, function in rewards.items() if function is not math_reward}


def check_rewards(rewards: Rewards, problems: Sequence[Problem], source: str) -> None:
    """Finds what would fail at the first batch, before anything is sampled.

    Raises:
        ValueError: There is no reward, a problem has no gold to judge by, or a function needs a
            column that the problems do not have.
        ImportError: math-verify is missing.
    """
    if not rewards:
        raise ValueError("rewards is empty, expected at least one reward function.")
    if judges_math(rewards):
        if find_spec("math_verify") is None:
            raise ImportError(
                "the math reward needs math-verify, which is not installed: "
                "pip install 'math-verify[antlr4_13_2]>=0.9'."
            )
        if any(not one.answers for one in problems):
            raise ValueError(
                f"{source}: some problems have no answers, which the math reward needs."
            )
    for name, function in others(rewards).items():
        _check_columns(name, function, problems, source)


def _check_columns(
    name: str, function: RewardFunction, problems: Sequence[Problem], source: str
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # as for some that are written in C
        return
    arguments = _arguments([""], [""], [()], problems[:1])
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"reward {name}: {error}. It would be called with {', '.join(arguments)}: expected "
            f"columns of {source} for all that it needs, and **kwargs for the rest."
        ) from error


def grade_batch(
    problems: Sequence[Problem], prompts: Sequence[str], completions: Sequence[Completion]
) -> list[Grade]:
    """The math reward's verdicts on a batch."""
    return grade_many(
        [response_text(p, c.text) for p, c in zip(prompts, completions, strict=True)],
        [one.answers for one in problems],
    )


def reward_batch(
    rewards: Rewards,
    problems: Sequence[Problem],
    prompts: Sequence[str | Messages],
    completions: Sequence[Completion],
) -> list[dict[str, float | None]]:
    """Scores that each function gives each sample of a batch.

    The functions get what TRL gives them: `prompts` and `completions` as texts, or as messages
    where the prompts are messages, `completion_ids`, the columns of the problems, `trainer_state`
    of a training that has not begun, and `log_extra` and `log_metric`, which keep nothing.

    Args:
        rewards: The functions, plain or async; the math reward is passed over.
        problems: The problem of each sample.
        prompts: As the chat template or the model was given them.
        completions: The texts that the model wrote.

    Raises:
        ValueError: A function gave another number of rewards, or one that is no finite number.
        RuntimeError: A function failed.
    """
    found: list[dict[str, float | None]] = [{} for _ in problems]
    functions = others(rewards)
    if not functions:
        return found
    texts: list[Any] = [one.text for one in completions]
    if not isinstance(prompts[0], str):
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    arguments = _arguments(prompts, texts, [list(one.ids) for one in completions], problems)
    for name, function in functions.items():
        for row, value in zip(found, _call(name, function, arguments), strict=True):
            row[name] = value
    return found


def _arguments(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Any],
    problems: Sequence[Problem],
) -> dict[str, Any]:
    from transformers import TrainerState

    names = dict.fromkeys(name for one in problems for name in one.columns)
    columns = {name: [one.columns.get(name) for one in problems] for name in names}
    # A column of this name would be the training's own argument.
    return columns | {
        "prompts": list(prompts),
        "completions": list(completions),
        "completion_ids": list(completion_ids),
        "trainer_state": TrainerState(),
        "log_extra": _keep_nothing,
        "log_metric": _keep_nothing,
    }


def _keep_nothing(name: str, value: Any) -> None:
    """Takes what a function would log in a training."""


def _call(name: str, function: RewardFunction, arguments: Mapping[str, Any]) -> list[float | None]:
    try:
        given = function(**arguments)
        if inspect.isawaitable(given):
            # In a thread of its own, as a notebook's thread has a loop that runs already.
            with ThreadPoolExecutor(1) as thread:
                given = thread.submit(asyncio.run, _awaited(given)).result()
    except Exception as error:
        raise RuntimeError(
            f"reward {name} failed: {type(error).__name__}: {error}. It was called with "
            f"{', '.join(arguments)}."
        ) from error
    values = [_number(name, value) for value in given] if isinstance(given, Iterable) else []
    if len(values) != len(arguments["prompts"]):
        raise ValueError(
            f"reward {name} gave {len(values)} rewards as a {type(given).__name__}, expected one "
            f"for each of {len(arguments['prompts'])} completions."
        )
    return values


async def _awaited(given: Any) -> Any:
    return await given


def _number(name: str, value: Any) -> float | None:
    """The reward; `None` and NaN say that the function does not judge this sample."""
    try:
        number = math.nan if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"reward {name} gave {value!r} of type {type(value).__name__}, expected numbers, or "
            "None for a sample that it does not judge."
        ) from error
    if math.isinf(number):
        raise ValueError(f"reward {name} gave {number}, expected finite numbers or None.")
    return None if math.isnan(number) else number
