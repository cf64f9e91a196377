"""Text from models, data sets and settings inside Markdown, where it must stay text."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 200
# Names on the Hub: an optional namespace and a name, nothing that Markdown or YAML could read.
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


def is_repo_id(text: object) -> bool:
    return isinstance(text, str) and bool(_REPO_ID.fullmatch(text)) and ".." not in text


def one_line(text: str, longest: int = LONGEST) -> str:
    """`text` without control, invisible and bidi characters, and cut."""
    text = text[: 10 * longest]
    kept = "".join(
        " " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C"
    )
    kept = " ".join(kept.split())
    return kept if len(kept) <= longest else kept[: longest - 1] + "…"


def code_span(text: object) -> str:
    """`text` as code in a line or a table's cell: nothing in it is Markdown, HTML or a link.

    A `|`, which ends a cell in code too, is shown as `¦`.
    """
    line = one_line(str(text)).replace("|", "¦") or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def code_block(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def hub_link(repo_id: str, *, kind: str = "") -> str:
    """A link to a model, or with `kind="datasets/"` to a data set."""
    assert is_repo_id(repo_id)
    return f"[{code_span(repo_id)}](https://huggingface.co/{kind}{repo_id})"
