"""Prompts in a list: long ones share their beginnings, so their ends are shown."""

from __future__ import annotations


def prompt_ends(prompts: list[str], length: int) -> list[str]:
    """The end of each prompt, up to `length` characters, with … where text is left out.

    Where all prompts also end alike, as under a chat template, that end is shortened and what
    stands before it is shown too.
    """
    shared = _shared_end(prompts)
    if len(shared) <= length // 3:
        return [_end(prompt, length) for prompt in prompts]
    kept = shared[-length // 3 :]
    return [
        _end(prompt.removesuffix(shared), length - len(kept)) + ("…" + kept) for prompt in prompts
    ]


def _end(text: str, length: int) -> str:
    """The last characters, from the beginning of a word where there is one nearby."""
    if len(text) <= length:
        return text
    end = text[-length:]
    word = end.find(" ", 0, 12)
    return f"…{end[word + 1 :]}"


def _shared_end(prompts: list[str]) -> str:
    """The end that all prompts share; empty where they are one and the same."""
    backwards = {prompt[::-1] for prompt in prompts}
    if len(backwards) < 2:
        return ""
    first, last = min(backwards), max(backwards)  # all others stand between them
    pairs = enumerate(zip(first, last, strict=False))
    end = next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))
    return first[:end][::-1]
