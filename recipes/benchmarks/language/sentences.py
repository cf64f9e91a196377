"""Where the steps of a written-out solution end: with its sentences."""

from __future__ import annotations

END = "."


def sentence_ends(ids: list[int], texts: list[str]) -> list[int]:
    """Indices of the tokens that end a sentence, for `step_ends`; a decimal point ends none.

    Args:
        ids: of the tokens of one completion.
        texts: theirs.
    """
    following = [*texts, ""][1:]
    return [
        index
        for index, (text, after) in enumerate(zip(texts, following, strict=True))
        if text.rstrip().endswith(END) and not after[:1].isdigit()
    ]
