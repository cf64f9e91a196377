r"""The question of a probe: the gold after a text that calls for the answer, as tokens.

A gold is one text: of several right answers of a row the first that is readable. A data set's text
is taken for what it is, whatever stands in it; of a long gold the first 512 tokens count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..methods import AUTO, BOXED_PROBE
from ..rewards.golds import gold_texts
from ..rewards.trl_reward import GOLD_COLUMNS

GOLD_TOKENS = 512
# As a prompt asks for the answer: what it says, and the probe.
MARKS = {r"\boxed": BOXED_PROBE, "####": "\n\n#### ", "<answer>": "\n\n<answer>"}
_THINK, _END_OF_THOUGHT = "<think>", "</think>"


def find_answer_column(there: Collection[str], wanted: str | None) -> str:
    """The column with the golds.

    Args:
        there: the data set's columns.
        wanted: `answer_column`; None for the first of answers, answer and solution.

    Raises:
        ValueError: there is no such column; the message has those that there are.
    """
    if wanted is not None and wanted in there:
        return wanted
    found = [name for name in GOLD_COLUMNS if name in there] if wanted is None else []
    if found:
        return found[0]
    expected = f"answer_column={wanted!r}" if wanted else f"one of {', '.join(GOLD_COLUMNS)}"
    raise ValueError(
        "td_error='probe' asks the policy for the known answer, and the data set has no column of "
        f"answers: expected {expected}, found {', '.join(sorted(there)) or 'no columns'}. Set "
        "answer_column to the one that holds them, or choose another td_error."
    )


def golds_of(columns: Mapping[str, Sequence[Any]], name: str | None, rows: int) -> list[str]:
    """One gold for each row, `""` where there is none.

    Args:
        columns: the batch's columns.
        name: from `find_answer_column`; a column that is not there has no golds.
        rows: how many there are.

    Raises:
        TypeError: a gold that is neither text nor number, nor a list of these.
    """
    entries = columns.get(name) if name is not None else None
    return [""] * rows if entries is None else [gold_of(entry, str(name)) for entry in entries]


def gold_of(entry: Any, column: str) -> str:
    """The first readable answer of a data set's entry, as bare text; `""` where there is none."""
    try:
        texts = gold_texts(entry)
    except TypeError as error:
        raise TypeError(
            f"td_error='probe': the column {column!r} holds {entry!r:.200} of type "
            f"{type(entry).__name__}; expected a text, a number, a list of these, or None."
        ) from error
    return next((text for text in texts if text), "")


def probe_after(probe_text: str, prompt: str, prefix: str) -> str:
    r"""The probe for a prefix: `probe_text`, or with "auto" what the prompt asks for.

    With "auto" the last of `\boxed`, `####` and `<answer>` in the prompt decides (`\boxed{` where
    there is none), and a thought that is still open is closed first.

    Args:
        prompt: its text, special tokens included.
        prefix: the text that the policy and its tools have written since.
    """
    if probe_text != AUTO:
        return probe_text
    said = max(MARKS, key=prompt.rfind)
    probe = MARKS[said] if said in prompt else BOXED_PROBE
    whole = prompt + prefix
    thinks = whole.rfind(_THINK) > whole.rfind(_END_OF_THOUGHT)
    return f"\n{_END_OF_THOUGHT}{probe}" if thinks else probe


class ProbeTokens:
    """Probe and gold as one tokenizer writes them together: (token ids, how many are the gold's).

    They are encoded as one text, because a blank at the end of a probe is often one token with what
    follows: then that token is the gold's.
    """

    def __init__(self, tokenizer: Any):
        self._encoder = tokenizer
        self.encoded = lru_cache(maxsize=4096)(self._encoded)

    def _encoded(self, probe: str, gold: str) -> tuple[list[int], int]:
        whole, alone = self._ids(probe + gold), self._ids(probe)
        shared = 0
        while shared < min(len(whole), len(alone)) and whole[shared] == alone[shared]:
            shared += 1
        ids = whole[: shared + GOLD_TOKENS]
        return ids, len(ids) - shared

    def _ids(self, text: str) -> list[int]:
        # A lone surrogate is no text for a tokenizer.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return list(self._encoder(clean, add_special_tokens=False)["input_ids"])
