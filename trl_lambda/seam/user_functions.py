"""Checks of what users' functions return: step rewards, rollouts, images that were added.

What one process finds wrong is gathered first and raised on all: a process that raised alone would
leave the others waiting in their next collective. The launcher ends those on its own machine; on
other machines they would wait until the collective's time is up.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from accelerate.utils import gather_object

from ..functional.td_errors import StepRewards, check_steps

StepLists = list[StepRewards | None]
# TRL hands them to a reward function beside the data set's columns.
NOT_COLUMNS = ("prompt", "completion", "completion_ids")


class RaisedElsewhereError(RuntimeError):
    """Another process raised it; all processes know of it already."""


def raise_everywhere(error: Exception | None) -> None:
    """Raises on all processes if one has an error: its own there, what it was on the others."""
    said = None if error is None else f"{type(error).__name__}: {error}"
    everyones = gather_object([said])
    if error is not None:
        raise error
    _raise_what_was_said(everyones)


def agree_on_largest(count: int) -> int:
    """The largest of all processes' counts; raises where another one has an error in its place.

    It meets the others also where they are in `raise_everywhere`.
    """
    everyones = gather_object([count])
    _raise_what_was_said(everyones)
    return max(everyones)


def _raise_what_was_said(everyones: list[str | int | None]) -> None:
    for process, said in enumerate(everyones):
        if isinstance(said, str):
            raise RaisedElsewhereError(f"Process {process} raised {said}")
    if len({type(said) for said in everyones}) > 1:
        raise RaisedElsewhereError(
            "td_error called batch.log_probs more often on one process than on another; call it "
            "equally often on all, with an empty list where there is nothing to ask."
        )


def gathered_steps(func: Callable, columns: dict[str, Any], lengths: list[int]) -> StepLists:
    """The step rewards that `func` returns for the completions of all processes.

    Raises:
        ValueError: names what came from which function for which completion; RuntimeError on the
            processes that have nothing wrong. Whatever `func` raises, likewise.
    """
    own, fault = [], None
    try:
        own = _own_steps(func(**columns), lengths, function_name(func))
    except Exception as error:
        fault = error
    raise_everywhere(fault)
    return gather_object(own)


def _own_steps(returned: Any, lengths: list[int], name: str) -> StepLists:
    """Raises ValueError for what cannot be steps."""
    if not isinstance(returned, Iterable):
        raise ValueError(
            f"The process reward function {name!r} returned {type(returned).__name__}; expected "
            "one list of (index of the token that ends the step, reward) per completion."
        )
    own = [_as_steps(entry, row, name) for row, entry in enumerate(returned)]
    if len(own) != len(lengths):
        raise ValueError(
            f"The process reward function {name!r} returned {len(own)} entries for "
            f"{len(lengths)} completions; return one list of (index of the token that ends "
            "the step, reward) per completion, or None to abstain."
        )
    check_steps(own, lengths, where=f"process reward function {name!r}")
    return own


def _as_steps(entry: Any, row: int, name: str) -> StepRewards | None:
    """One completion's steps, whatever iterable of pairs of numbers they were."""
    if entry is None:
        return None
    try:
        return [_as_step(end, reward) for end, reward in entry]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The process reward function {name!r} returned {entry!r} for completion {row}; "
            "expected a list of (index of the token that ends the step, reward), or None to "
            "abstain."
        ) from error


def _as_step(end: Any, reward: Any) -> tuple[int, float]:
    if isinstance(end, bool):
        raise TypeError(f"{end} is no token index")
    # Rounded as the loss will have it: what overflows there is infinite here.
    return operator.index(end), torch.tensor(float(reward), dtype=torch.float32).item()


def check_process_reward_func(func: Any) -> None:
    """Raises TypeError for what cannot be called as one."""
    if not callable(func):
        raise TypeError(f"process_reward_funcs: expected callables, got {func!r}.")
    if inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__):
        raise TypeError(
            f"process_reward_funcs: {function_name(func)!r} is a coroutine function, which is not "
            "supported; give a function that runs it, with asyncio.run, say."
        )


def function_name(func: Any) -> str:
    return getattr(func, "__name__", type(func).__name__)


def images_added(inputs: list[dict[str, Any]], counts: list[int] | None) -> bool:
    """Whether the model saw images that the data set does not hold: a tool's, an environment's.

    Args:
        inputs: rows of the data set.
        counts: images that the model saw, by row; None where it saw none.
    """
    return counts is not None and counts != list(map(_image_count, inputs))


def _image_count(row: dict[str, Any]) -> int:
    """Images of a data set's row: in its column, or in the blocks of its messages."""
    prompt = row.get("prompt")
    contents = [m.get("content") for m in prompt] if isinstance(prompt, list) else []
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    in_blocks = sum(block.get("image") is not None for block in blocks)
    if "images" in row:
        return in_blocks + len(row["images"] or ())
    return in_blocks + (row.get("image") is not None)


def without_empty_completions(rollout_func: Callable) -> Callable:
    """TRL dies of what is no dict, and of a completion without tokens; this says which one it was.

    What `rollout_func` raises is not exchanged: the others may be in a collective of its own, such
    as the gathering of sharded weights.
    """

    @functools.wraps(rollout_func)
    def checked(prompts, *args, **kwargs):
        output = rollout_func(prompts, *args, **kwargs)
        raise_everywhere(_rollout_error(output, len(prompts)))
        return output

    return checked


def _rollout_error(output: Any, prompts: int) -> Exception | None:
    """The error for a rollout that TRL cannot take; None for one that it can."""
    if not isinstance(output, Mapping):
        return TypeError(
            f"rollout_func returned {type(output).__name__}; expected a dict with prompt_ids, "
            "completion_ids and logprobs, each with an entry for every prompt (logprobs may be "
            "None)."
        )
    lengths = [len(ids) for ids in output.get("completion_ids") or ()]
    if 0 in lengths:
        return ValueError(
            f"rollout_func returned an empty completion for row {lengths.index(0)} of {prompts}; "
            "every completion needs at least one token (EOS, say)."
        )
    return None


def data_columns(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """The data set's columns that reward functions get."""
    names = [name for name in inputs[0] if name not in NOT_COLUMNS]
    return {name: [row[name] for row in inputs] for name in names}
