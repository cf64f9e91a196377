"""The runs in a log: runs have ids, a resumed run is a part linked to the one it resumes.

`meta.json` lists the parts of a run: each has a `run_id`, the step it starts from (`from_step`) and
the `run_id` it `resumes`, null where it begins anew. A run killed at step 55 and resumed from its
checkpoint at step 40 leaves lines of steps that were trained twice. The lines that count are those
of the last part, and those of the parts it descends from up to the step at which it left them.

A new run in an old `output_dir` moves the log that lies there to `_earlier_runs/<run_id>/`, where
the report reads it: nothing is lost, and nothing of it is in the picture of the new run. Pushes to
the Hub leave names that begin with `_` out, so prompts and completions of the old run are not
published with the new one.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .format import FOLDER, LOGS, META, segments

EARLIER_RUNS = "_earlier_runs"
# Pages and pictures that the report makes of a log beside it, with prompts and completions.
REPORTS = "credit_report*.*"
# Lines of versions that gave runs no id.
NO_ID = ""


def new_run_id() -> str:
    """Unique, and sorted by time: 20300131-094500-3fa9c1."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def parts_of(meta: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a run, in the order in which they were trained."""
    parts = meta.get("parts")
    if isinstance(parts, list):
        return [part for part in parts if _is_part(part)]
    return [{"run_id": NO_ID, "from_step": 0, "resumes": None}]


def _is_part(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and isinstance(part.get("run_id"), str)
        and isinstance(part.get("from_step"), int)
        and isinstance(part.get("resumes"), str | None)
    )


def left_at(meta: dict[str, Any]) -> dict[str, float] | None:
    """By run id, the step at which the run went on from another part; None: all lines count.

    Records of that step and later ones, and logs of later ones, were trained again.
    """
    if "parts" not in meta:
        return None
    parts = {part["run_id"]: part for part in parts_of(meta)}
    current, limit = str(meta.get("run_id")), math.inf
    limits: dict[str, float] = {}
    while current in parts and current not in limits:
        limits[current] = limit
        limit = min(limit, parts[current]["from_step"])
        current = parts[current]["resumes"]
    return limits


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The content of `meta.json`; None where there is none, or it is no JSON object."""
    try:
        meta = json.loads((folder / META).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return meta if isinstance(meta, dict) else None


def holds_lines(folder: Path) -> bool:
    """Whether there is a log that something was written to."""
    files = [*segments(folder), folder / LOGS]
    return any(path.is_file() and path.stat().st_size > 0 for path in files)


def move_to_earlier_runs(folder: Path) -> Path:
    """Moves a log, and reports on it, out of the way of a new run.

    Returns:
        The folder that the report reads the log from.
    """
    meta = read_meta(folder) or {}
    name = re.sub(r"[^\w-]+", "-", str(meta.get("run_id") or meta.get("started") or "unknown"))
    place = folder.parent / EARLIER_RUNS / (name.strip("-")[:80] or "unknown")
    taken = 1
    while place.exists():
        taken += 1
        place = place.with_name(f"{name}-{taken}")
    place.mkdir(parents=True)
    os.replace(folder, place / FOLDER)
    for report in folder.parent.glob(REPORTS):
        os.replace(report, place / report.name)
    return place
