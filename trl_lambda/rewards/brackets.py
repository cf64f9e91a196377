r"""Where the brackets of a text open and close.

`{…}` groups and prints nothing; `(…)`, `[…]` and `\{…\}` are printed and may hold lists. Closing
brackets need not match the opening ones, since `[0,1)` is an interval.
"""

import re

# A line break comes first, so that the brace in `\\{` groups; any other escaped character is none.
_TOKEN = re.compile(r"\\\\|\\[{}]|\\[^a-zA-Z]|[(){}\[\]]")
_OPENING = {"(", "[", "{", r"\{"}
_CLOSING = {")", "]", "}", r"\}"}

_ENCLOSED = re.compile(
    r"(?P<opening>((?:\\left\s*)?)(?:\(|\[|\\\{))(?P<content>.*?)"
    r"(?P<closing>(?:\\right\s*)?(?:\)|\]|\\\}))",
    re.DOTALL,
)


def top_level(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """The matches of a pattern that start outside all brackets."""
    found = list(pattern.finditer(text))
    if not found:
        return []
    spans = _bracketed(text)
    return [m for m in found if not any(start <= m.start() < end for start, end in spans)]


def split_top_level(text: str, pattern: re.Pattern[str]) -> list[str]:
    """The pieces between the matches of a pattern that start outside all brackets."""
    pieces, start = [], 0
    for found in top_level(text, pattern):
        pieces.append(text[start : found.start()])
        start = found.end()
    return [*pieces, text[start:]]


def enclosed(text: str) -> tuple[str, str, str]:
    r"""Opening bracket, content and closing bracket where printed brackets span the whole text.

    Otherwise the brackets are empty and the content is the text.
    """
    found = _ENCLOSED.fullmatch(text)
    if found is None or _bracketed(text) != [(len(found[2]), len(text))]:
        return "", text, ""
    return found["opening"], found["content"], found["closing"]


def in_list(text: str, position: int) -> bool:
    r"""Whether the innermost bracket around a position may hold a list, or an index: `_{1,2}`."""
    stack: list[bool] = []
    for token in _TOKEN.finditer(text, 0, position):
        if token[0] in _OPENING:
            index = text[: token.start()].rstrip().endswith("_")
            stack.append(token[0] != "{" or index)
        elif token[0] in _CLOSING and stack:
            stack.pop()
    return bool(stack) and stack[-1]


def nesting(text: str) -> int | None:
    """How deep the brackets of a text nest; `None` where its braces are not balanced."""
    deepest = printed = braces = 0
    for token in _TOKEN.finditer(text):
        if token[0] in "{}":
            braces += 1 if token[0] == "{" else -1
        else:
            printed += (token[0] in _OPENING) - (token[0] in _CLOSING)
        if braces < 0:
            return None
        deepest = max(deepest, braces + max(printed, 0))
    return None if braces else deepest


def _bracketed(text: str) -> list[tuple[int, int]]:
    """Start and end of the outermost brackets; an open one reaches to the end of the text."""
    spans, depth, start = [], 0, 0
    for token in _TOKEN.finditer(text):
        if token[0] in _OPENING:
            start = start if depth else token.start()
            depth += 1
        elif token[0] in _CLOSING and depth:
            depth -= 1
            if not depth:
                spans.append((start, token.end()))
    return [*spans, (start, len(text))] if depth else spans
