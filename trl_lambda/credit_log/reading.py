"""Reading a run's credit log: lines into groups, each completion joined with its update.

The log is append-only and its writer may be killed at any byte, so a line that is no JSON is left
out and counted. So are lines of other runs, and of steps that a resumed run trained again
(`runs.py`). Everything else that does not fit the format is an error that names file and row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .forks import check_forks
from .format import (
    DROPPED,
    FOLDER,
    FORMAT,
    GROUP_LISTS,
    LOGS,
    MAY_BE_NULL,
    META,
    OPTIONAL_GROUP_LISTS,
    OPTIONAL_UPDATE_LISTS,
    UPDATE_LISTS,
    segments,
)
from .runs import NO_ID, left_at


@dataclass
class Run:
    """One run's credit log.

    Attributes:
        name: for legends.
        path: the run's folder.
        meta: `settings`, `versions`, `started`, as the recorder wrote them.
        logs: one entry per log of the trainer, `step` and `metrics`.
        groups: as in the file format, in the order of writing; a completion has `update`, None
            where the log has none, `cut` if tokens were left out of it, and `parent` and `fork` if
            its group was branched.
        dropped: counts of what the recorder deleted to stay under its limit; empty if nothing.
        unreadable: lines that are no JSON, such as the last one of a run that was killed.
        superseded: lines of steps that were trained again after a checkpoint was resumed, and lines
            of other runs.
    """

    name: str
    path: Path
    meta: dict[str, Any]
    logs: list[dict[str, Any]]
    groups: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0
    superseded: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        return self.meta.get("settings", {})


def load_run(run_dir: str | Path) -> Run:
    """Reads the credit log in `run_dir`, the `output_dir` of a training run.

    Raises:
        FileNotFoundError: there is no credit log.
        ValueError: it has another format, or a record that does not fit the format.
    """
    path = Path(run_dir)
    folder = path / FOLDER
    meta = _read_meta(folder)
    run = Run(name=str(meta.get("run") or path.resolve().name), path=path, meta=meta, logs=[])
    run.logs = [line for _, line in _lines(folder / LOGS, run, records=False)]
    run.dropped = _read_json(folder / DROPPED) if _exists(folder / DROPPED) else {}
    run.groups = _read_groups(folder, run)
    return run


def _exists(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _read_meta(folder: Path) -> dict[str, Any]:
    if not _exists(folder / META):
        raise FileNotFoundError(
            f"report: no credit log in {folder.parent}: expected {FOLDER}/meta.json there. "
            "RUN_DIR is the output_dir of a run that was trained with credit_log_steps=N (or "
            "log_completions=True)."
        )
    meta = _read_json(folder / META)
    if meta.get("format") != FORMAT:
        raise ValueError(
            f"report: {folder / META} has format {meta.get('format')!r}, this version of "
            f"trl_lambda reads {FORMAT}. Use the version that wrote it: {meta.get('versions')}."
        )
    return meta


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = _parse(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"report: {path} is not JSON ({error}). Delete it or restore it."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"report: {path} must hold a JSON object, got {type(content).__name__}.")
    return content


def _parse(text: bytes) -> Any:
    """JSON, with the NaN and infinities that Python writes as None."""
    return json.loads(text, parse_constant=lambda _: None)


def _lines(path: Path, run: Run, *, records: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a file that may be missing; counts what does not count."""
    if not path.is_file():
        return
    limits = left_at(run.meta)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                content = _parse(line)
            except (ValueError, RecursionError):  # a foreign line, however deep
                content = None
            if not isinstance(content, dict):
                run.unreadable += bool(line.strip())
            elif limits is None or _counts(content, limits, records):
                yield number, content
            else:
                run.superseded += 1


def _counts(line: dict[str, Any], limits: dict[str, float], records: bool) -> bool:
    """Whether a line is of this run, and its step was not trained again by a later part of it.

    A record of step s belongs to the update after s, a log of step s to the one before.
    """
    limit = limits.get(str(line.get("run_id", NO_ID)), -math.inf)
    step = line.get("step")
    if not isinstance(step, int | float):
        return limit > -math.inf  # this run's: whoever reads it says what is wrong
    return step < limit if records else step <= limit


def _read_groups(folder: Path, run: Run) -> list[dict[str, Any]]:
    """Groups in order; of a group written twice (a resumed run) the later one stands."""
    groups: dict[str, dict[str, Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for segment in segments(folder):
        for number, record in _lines(segment, run, records=True):
            place = f"{segment}, line {number}"
            if record.get("kind") == "group":
                group = _checked_group(record, place)
                groups.pop(group["id"], None)
                groups[group["id"]] = group
                rows.update({str(row["row"]): row for row in group["completions"]})
            elif record.get("kind") == "update":
                _join(record, rows, place)
    return list(groups.values())


def _checked_group(group: dict[str, Any], place: str) -> dict[str, Any]:
    _require(group, ("id", "step", "mode", "prompt", "completions"), place)
    if not isinstance(group["id"], str) or not isinstance(group["completions"], list):
        raise ValueError(
            f"report: {place}: a group's id must be a text and its completions a list, got "
            f"{group['id']!r} and {type(group['completions']).__name__}. Delete that line."
        )
    for completion in group["completions"]:
        _require(completion, ("row", "reward", "group_advantage", *GROUP_LISTS), place)
        pieces = completion["pieces"]
        optional = [name for name in OPTIONAL_GROUP_LISTS if name in completion]
        length = len(pieces) if _is_list(pieces) else 0
        _check_lengths(completion, (*GROUP_LISTS, *optional), length, place)
        _check_cut(completion, place)
        completion["update"] = None
    check_forks(group["completions"], place)
    return group


def _join(update: dict[str, Any], rows: dict[str, dict[str, Any]], place: str) -> None:
    """Hands an update to its completion: the first one counts, and its group may be dropped."""
    _require(update, ("row", *UPDATE_LISTS), place)
    completion = rows.get(str(update["row"]))
    if completion is not None and completion["update"] is None:
        optional = [name for name in OPTIONAL_UPDATE_LISTS if update.get(name) is not None]
        names = (*UPDATE_LISTS, *optional)
        _check_lengths(update, names, len(completion["pieces"]), place)
        completion["update"] = {name: update[name] for name in names}


def _require(record: Any, names: tuple[str, ...], place: str) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"report: {place}: expected a JSON object, got {record!r}.")
    missing = [name for name in names if name not in record]
    if missing:
        raise ValueError(
            f"report: {place}: a record lacks {', '.join(missing)}; it has {sorted(record)}. "
            f"The file does not follow format {FORMAT} of the credit log; delete that line."
        )


def _check_lengths(record: dict[str, Any], names: tuple[str, ...], length: int, place: str) -> None:
    """All per-token lists of a completion are as long as it has tokens."""
    for name in names:
        values = record[name]
        if values is None and name in MAY_BE_NULL:
            continue
        if not _is_list(values) or len(values) != length:
            came = len(values) if _is_list(values) else repr(values)
            raise ValueError(
                f"report: {place}: row {record['row']}: {name} must have one entry for each of the "
                f"{length} tokens, got {came}. Delete that line."
            )


def _check_cut(completion: dict[str, Any], place: str) -> None:
    """The tokens left out of a completion stand at one of its entries."""
    cut = completion.get("cut")
    if cut is None:
        return
    _require(cut, ("at", "tokens"), place)
    at, tokens, entries = cut["at"], cut["tokens"], len(completion["ids"])
    if not (type(at) is type(tokens) is int and 0 <= at < entries and tokens > 0):
        raise ValueError(
            f"report: {place}: row {completion['row']}: cut must name one of the {entries} entries "
            f"and how many tokens it stands for, got {cut!r}. Delete that line."
        )


def _is_list(values: Any) -> bool:
    return isinstance(values, list)
