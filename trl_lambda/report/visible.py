"""Text of models in pictures: what would be invisible, or move other text, gets a name.

The page does the same in `static/text.js`.
"""

from __future__ import annotations

import unicodedata

# Control, format (bidi marks), lone surrogate, line and paragraph separators.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # part of ordinary words and emoji
PICTURES = {"\n": "↵", "\t": "→"}


def visible(text: str) -> str:
    """The text with ↵ and → for line's end and tab, ⟨U+202E⟩ for what else has no shape."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in JOINERS or unicodedata.category(character) not in UNSEEN:
        return character
    return PICTURES.get(character, f"⟨U+{ord(character):04X}⟩")
