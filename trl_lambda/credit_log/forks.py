"""Where the completions of a branched group come from, as the credit log has it.

`parent` and `fork` of a completion (`format.py`) count tokens as they were sampled. A completion
that was cut holds fewer entries than tokens; `first_token` and `first_entry` translate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Completion = dict[str, Any]


def has_forks(completions: Sequence[Completion]) -> bool:
    """Whether it is recorded where these completions come from."""
    return any(row.get(name) is not None for row in completions for name in ("parent", "fork"))


def token_count(completion: Completion) -> int:
    """Tokens of a completion, those included that were left out of the record."""
    return first_token(completion, len(completion["ids"]))


def first_token(completion: Completion, entry: int) -> int:
    """The first token that an entry of a completion's lists stands for."""
    cut = completion.get("cut")
    return entry + cut["tokens"] - 1 if cut and entry > cut["at"] else entry


def first_entry(completion: Completion, token: int) -> int:
    """The entry of a completion's lists that stands for a token, alone or with those left out."""
    cut = completion.get("cut")
    if not cut or token <= cut["at"]:
        return token
    return max(token - cut["tokens"] + 1, cut["at"])


def is_copy(completion: Completion) -> bool:
    """Whether a completion took over all its tokens: its parent ended before the fork."""
    return 0 < (completion.get("fork") or 0) == token_count(completion)


def writer(completions: Sequence[Completion], row: int, token: int) -> int:
    """The completion that sampled a token of completion `row`: itself, or one it comes from."""
    while token < completions[row]["fork"]:
        row = completions[row]["parent"]
    return row


def check_forks(completions: Sequence[Completion], place: str) -> None:
    """Refuses a group whose parents and forks cannot be.

    Args:
        completions: all of a group.
        place: file and line, for the message.

    Raises:
        ValueError: says what is wrong with which row.
    """
    if not has_forks(completions):
        return
    for number, row in enumerate(completions):
        if fault := _fault(completions, number):
            raise ValueError(f"report: {place}: row {row['row']}: {fault}. Delete that line.")


def _fault(completions: Sequence[Completion], number: int) -> str | None:
    row, size = completions[number], len(completions)
    parent, fork = row.get("parent"), row.get("fork")
    if type(parent) is not int or not 0 <= parent < size:
        return f"parent must be a completion's number in [0, {size}), got {parent!r}"
    if type(fork) is not int or fork < 0 or (parent == number and fork):
        return f"fork must be a number of tokens, 0 where a row is its own parent, got {fork!r}"
    for name, tokens in (("it", token_count(row)), ("parent", token_count(completions[parent]))):
        if tokens and fork > tokens:  # one that was masked out as truncated is recorded without any
            return f"fork is {fork}, and {name} has {tokens} tokens"
    if not _ends_at_a_root(completions, number):
        return f"it comes from itself: parent {parent} and those before it lead back to it"
    return None


def _ends_at_a_root(completions: Sequence[Completion], number: int) -> bool:
    for _ in completions:
        parent = completions[number].get("parent")
        if parent == number or type(parent) is not int or not 0 <= parent < len(completions):
            return True  # or it is a fault of that row, which is told of that row
        number = parent
    return False
