r"""Finds the answer of a response.

Everything here looks at the text only, in time linear in its length, so it can run in the training
process on any text. The rules are listed in the docstring of `trl_lambda.rewards`.
"""

import re
from collections.abc import Iterator

# No gold of the usual sets has 300 characters; what is longer is no answer, and would only keep
# a parser busy.
MAX_ANSWER_CHARS = 4096

_BOX = re.compile(r"\\boxed\s*+\{")
# `\\` is a line break, so the brace after it groups; `\{` is a printed brace and does not.
_BRACE = re.compile(r"\\boxed\s*+\{|\\\\(?!boxed)|\\[{}]|[{}]")
_HASHES = re.compile(r"(?<!#)####(?!#)")
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"))


def extract_answer(response: str) -> str | None:
    r"""Returns the text of the answer a response marks, or `None` if it marks none.

    Args:
        response: The text of the completion, of any length.

    Returns:
        The content of the last `\boxed{}` or `<answer>` element, else what follows the last `####`
        on its line; without surrounding blanks, dollar signs and full stop.
    """
    text = _after_thought(response)
    box_start = _last_start(_BOX, text)
    tag_start = text.rfind("<answer>")
    if box_start > tag_start:
        marked = _box_content(text, box_start)
    elif tag_start >= 0:
        marked = _tag_content(text, tag_start)
    else:
        marked = _hashes_content(text)
    if marked is None or len(marked.strip()) > MAX_ANSWER_CHARS:
        return None
    return bare(marked) or None


def bare(text: str) -> str:
    r"""Strips blanks, one full stop, and `$…$`, `\(…\)`, `\[…\]`, `**…**` around the whole text.

    A `\ ` at the end counts as a blank, too.
    """
    text = _without_blanks(text)
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : -len(closing)]
        whole = text.startswith(opening) and text.endswith(closing) and closing not in inner
        if whole and len(text) > len(opening) + len(closing):
            return bare(inner)
    return text


def _without_blanks(text: str) -> str:
    text = text.strip()
    # An odd backslash at the end has lost the blank that it escaped.
    while (len(text) - len(text.rstrip("\\"))) % 2:
        text = text[:-1].rstrip()
    return text


def _after_thought(response: str) -> str:
    """The text behind the last `</think>`; nothing if a thought is still open."""
    closed = response.rfind("</think>")
    if response.rfind("<think>") > closed:
        return ""
    return response[closed + len("</think>") :] if closed >= 0 else response


def _last_start(pattern: re.Pattern[str], text: str) -> int:
    start = -1
    for found in pattern.finditer(text):
        start = found.start()
    return start


def _box_content(text: str, last_start: int) -> str | None:
    r"""The content of the box that starts last, or of the box around it; `None` if it never closes.

    `\boxed{4 \boxed{5}}` states `4 \boxed{5}`, not 5: else a response could hide an answer in a
    nest. A box that holds nothing but a box means the same as that one.
    """
    closed = list(_closed_boxes(text, last_start))
    last_end = next((end for box, _, end in closed if box == last_start), None)
    if last_end is None:
        return None
    nest = sorted(span for span in closed if span[0] <= last_start and span[2] >= last_end)
    _, start, end = nest[0]
    for inner_box, inner_start, inner_end in nest[1:]:
        if text[start:inner_box].strip() or text[inner_end + 1 : end].strip():
            break
        start, end = inner_start, inner_end
    return text[start:end]


def _closed_boxes(text: str, last_start: int) -> Iterator[tuple[int, int, int]]:
    r"""Balanced boxes near the last one: start of `\boxed`, start and end of the content."""
    window_start = max(0, last_start - MAX_ANSWER_CHARS)
    first = _BOX.search(text, window_start)
    assert first is not None, "the last box itself lies in the window"
    open_braces: list[re.Match[str]] = []
    for token in _BRACE.finditer(text, first.start(), last_start + 2 * MAX_ANSWER_CHARS):
        if token[0].endswith("{") and token[0] != r"\{":
            open_braces.append(token)
        elif token[0] == "}" and open_braces:
            opened = open_braces.pop()
            if opened[0] != "{":
                yield opened.start(), opened.end(), token.start()
            if token.start() > last_start and not open_braces:
                return


def _tag_content(text: str, tag_start: int) -> str | None:
    start = tag_start + len("<answer>")
    end = text.find("</answer>", start)
    return text[start:end] if end >= 0 else None


def _hashes_content(text: str) -> str | None:
    start = _last_start(_HASHES, text)
    return text[start + len("####") :].partition("\n")[0] if start >= 0 else None
