"""Verdicts that need no parser: the same text, or two plain integers.

Most gradings of word problems end here. A property test holds every verdict against the parser's.
"""

import re
from collections.abc import Sequence
from typing import Literal

_INTEGER = re.compile(r"(-?)([1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)")


def shortcut(golds: Sequence[str], answer: str) -> Literal["ok", "wrong"] | None:
    """Returns the verdict where it is plain, `None` where the parser must decide."""
    if answer in golds:
        return "ok"
    value = _plain_integer(answer)
    gold_values = [_plain_integer(gold) for gold in golds]
    if value is None or None in gold_values:
        return None
    return "ok" if value in gold_values else "wrong"


def _plain_integer(text: str) -> str | None:
    """The integer's canonical digits: as text, since int() refuses more than 4300 digits."""
    found = _INTEGER.fullmatch(text)
    if found is None:
        return None
    digits = found[2].replace(",", "").lstrip("0")
    return found[1] + digits if digits else "0"
