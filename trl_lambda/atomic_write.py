"""Files that are the old or the new ones, whenever the process is killed or another one reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path`, then puts it in the place of `path`.

    The file beside it is called `_<name>`: pushes to the Hub leave such names out. It is removed
    if `write` raises.
    """
    path = Path(path)
    unfinished = path.with_name(f"_{path.name}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def replace_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    replace_file(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def replace_json(path: str | Path, content: Any) -> None:
    """Writes JSON, indented by two, whole or not at all."""
    replace_text(path, json.dumps(content, indent=2) + "\n")
