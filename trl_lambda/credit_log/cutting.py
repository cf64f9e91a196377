"""How long completions and texts are cut, so that every record fits into the log.

All completions of a group stay. A long one loses its middle: the beginning holds the prefixes that
completions share, the end the answer. One entry in each of its per-token lists stands for what is
gone, so the lists stay as long as each other: its piece says how many tokens are missing, its mask
is 0 and its id is negative, another one in every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .format import GROUP_LISTS, OPTIONAL_GROUP_LISTS, OPTIONAL_UPDATE_LISTS, UPDATE_LISTS

# Measured: 90 to 105 for a token's entries in a group and in an update, with KL and entropy.
BYTES_PER_TOKEN = 110
# Tokens of a completion that are kept, however little room there is.
FEWEST_TOKENS = 16
FEWEST_CHARACTERS = 200
# Entries of what is left out, where null would not do.
_IN_PLACE = {"mask": 0, "size": 0, "clipped": 0}


@dataclass(frozen=True)
class Room:
    """The bytes that a record may take.

    Attributes:
        record_bytes: groups of one record with their updates: half for tokens, a quarter each for
            prompts and for further columns.
    """

    record_bytes: int

    def tokens(self, lengths: Sequence[int]) -> int:
        """Tokens that a completion of the record may keep; shorter ones leave theirs to longer."""
        total = self.record_bytes // 2 // BYTES_PER_TOKEN
        return max(fair_share(lengths, total), FEWEST_TOKENS)

    def characters(self, texts: int) -> int:
        """Characters that each of so many texts may keep."""
        return max(self.record_bytes // 4 // max(texts, 1), FEWEST_CHARACTERS)


def fair_share(lengths: Sequence[int], total: int) -> int:
    """The largest L with Σ min(length, L) ≤ total, or the longest length if all fit."""
    left = total
    for place, length in enumerate(sorted(lengths)):
        as_long_or_longer = len(lengths) - place
        if length * as_long_or_longer > left:
            return left // as_long_or_longer
        left -= length
    return max(lengths, default=0)


@dataclass(frozen=True)
class Cut:
    """Tokens `at` … `at + tokens` − 1 of a completion are left out.

    Attributes:
        mark: id of the entry that stands for them.
    """

    at: int
    tokens: int
    mark: int

    @classmethod
    def of(cls, length: int, kept: int, *, mark: int) -> Cut | None:
        """The gap that leaves both halves of `kept` tokens; None where nothing need go."""
        if length <= kept:
            return None
        return cls((kept + 1) // 2, length - kept, mark)

    def completion(self, described: dict[str, Any]) -> dict[str, Any]:
        """A completion of a group record without these tokens."""
        named = {"pieces": f"⟨… {self.tokens} tokens left out …⟩", "ids": self.mark, **_IN_PLACE}
        there = [*GROUP_LISTS, *(name for name in OPTIONAL_GROUP_LISTS if name in described)]
        shorter = {name: self._shorter(described[name], named.get(name)) for name in there}
        return described | shorter | {"cut": {"at": self.at, "tokens": self.tokens}}

    def update(self, described: dict[str, Any]) -> dict[str, Any]:
        """The update of such a completion."""
        names = (*UPDATE_LISTS, *OPTIONAL_UPDATE_LISTS)
        return described | {
            name: self._shorter(described[name], _IN_PLACE.get(name))
            for name in names
            if name in described
        }

    def _shorter(self, values: list | None, entry: Any) -> list | None:
        if values is None:
            return None
        return [*values[: self.at], entry, *values[self.at + self.tokens :]]


def shortened(text: str, characters: int) -> str:
    """The text, or its beginning and its end with a note of what is missing between them."""
    if len(text) <= characters:
        return text
    head = (characters + 1) // 2
    missing = len(text) - characters
    return f"{text[:head]}⟨… {missing} characters left out …⟩{text[head + missing :]}"
