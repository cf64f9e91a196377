"""Text of models in pictures: what would be invisible, or move other text, gets a name.

The page does the same in `static/text.js`.
"""

from __future__ import annotations

import unicodedata

# Control, format (bidi marks), lone surrogate, line and paragraph separators.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # part of ordinary words and emoji


def visible(text: str) -> str:
    """The text with control pictures for C0 and ⟨U+202E⟩ for what else has no shape."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in JOINERS or unicodedata.category(character) not in UNSEEN:
        return character
    if character == "\n":
        return "↵"
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"
