"""Files of the credit log: appended while training, of bounded size.

One process writes. Lines are appended whole, so a kill costs at most the last one, and a restart
begins a new segment.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..atomic_write import replace_file, replace_json
from ..console import get_logger
from ..versions import installed_versions
from .format import DROPPED, FOLDER, FORMAT, LOGS, META, number, segment_number, segments
from .runs import NO_ID, holds_lines, move_to_earlier_runs, new_run_id, parts_of, read_meta

logger = get_logger(__name__)

# Shares of the limit: the size at which a segment is closed, and what one record may weigh.
SEGMENTS_IN_LIMIT = 10
RECORDS_IN_LIMIT = 4


class CreditLog:
    """Append-only files of bounded size.

    Nothing is written before the first line. Faults are raised (`OSError`, mostly): the
    recorder keeps them from the training, and the next line finds its place again.

    Args:
        folder: made when it is needed.
        max_mb: megabytes (10⁶ bytes) that the log's files may take, together; the oldest segments
            go first. Other files in the folder are not touched and do not count.

    Attributes:
        record_bytes: limit of the groups of one record with their updates.
        run_id: stands in the lines that are written; None before `begin`.
    """

    def __init__(self, folder: Path, max_mb: float):
        self.folder = folder
        self.max_bytes = int(max_mb * 1e6)
        self.segment_bytes = max(self.max_bytes // SEGMENTS_IN_LIMIT, 1)
        self.record_bytes = self.max_bytes // RECORDS_IN_LIMIT
        self.run_id: str | None = None
        self._about: dict[str, Any] = {}
        self._part: dict[str, Any] | None = None
        self._meta: dict[str, Any] = {}
        self._opened = False
        self._segment = 0
        self._needed = math.inf  # the segment from which the newest record needs them
        self._told_of_size = False
        self._uncounted: Counter[str] = Counter()

    def begin(
        self, about: dict[str, Any], *, from_step: int = 0, resumes: str | None = None
    ) -> None:
        """Begins a run, or another part of the run that the log holds.

        Args:
            about: the content of `meta.json`.
            from_step: the step of the checkpoint that is resumed, 0 for a new run.
            resumes: the run id in that checkpoint; None if it has none.

        Raises:
            OSError: the files cannot be written; the next line tries it again.
        """
        self.run_id = new_run_id()
        self._about = about
        self._part = {
            "run_id": self.run_id,
            "from_step": from_step,
            "resumes": resumes,
            "started": about.get("started"),
        }
        self._opened = False
        self._open()

    def segments(self) -> list[Path]:
        """Oldest first."""
        return segments(self.folder)

    def write_records(self, records: Iterable[dict[str, Any]], *, begin: bool = False) -> None:
        """Appends records.

        Args:
            begin: whether they begin a new one, of groups whose updates will follow; the groups
                stay until the next one begins, whatever they weigh.
        """
        self._open()
        if begin:
            self._needed = self._segment
        path = self.folder / f"records-{self._segment:05d}.jsonl"
        _append(path, [self._signed(record) for record in records])
        if path.stat().st_size >= self.segment_bytes:
            self._segment += 1
        self._keep_within_limit()

    def write_log(self, step: int, metrics: dict[str, Any]) -> None:
        self._open()
        path = self.folder / LOGS
        numbers = {k: number(v) for k, v in metrics.items() if isinstance(v, (int, float))}
        _append(path, [self._signed({"step": step, "metrics": numbers})])
        if path.stat().st_size > self.segment_bytes:
            # Every second line tells the curve too; counted from the first, so that runs over
            # several seeds keep steps in common.
            kept = b"".join(path.read_bytes().splitlines(keepends=True)[::2])
            replace_file(path, lambda unfinished: unfinished.write_bytes(kept))

    def _signed(self, record: dict[str, Any]) -> dict[str, Any]:
        return record if self.run_id is None else record | {"run_id": self.run_id}

    def _open(self) -> None:
        """Makes the folder ready for the next line, also where it has gone since the last one."""
        begun = self._part is not None
        if self._opened and ((self.folder / META).is_file() if begun else self.folder.is_dir()):
            return
        if begun and not self._opened:
            self._meta = self._followed()
        elif self._opened:
            logger.warning(
                "%s was deleted while the training goes on: its credit log begins again.",
                self.folder,
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if begun:
            replace_json(self.folder / META, self._meta)
        numbers = [segment_number(path) for path in self.segments()]
        self._segment, self._needed = max(numbers, default=-1) + 1, math.inf
        self._opened = True

    def _followed(self) -> dict[str, Any]:
        """`meta.json`: continues the log in the folder if it is this run's, else moves it away."""
        meta = {"format": FORMAT, **self._about, "run_id": self.run_id}
        found = read_meta(self.folder)
        known = parts_of(found) if found else []
        resumed = self._part["resumes"] or NO_ID
        if self._part["from_step"] and resumed in [part["run_id"] for part in known]:
            parts = [*known, self._part | {"resumes": resumed}]
            return meta | {"started": found.get("started"), "parts": parts}
        if holds_lines(self.folder):
            place = move_to_earlier_runs(self.folder)
            logger.warning(
                "%s held the credit log of an earlier run. It was moved to %s; "
                "`python -m trl_lambda.report %s` shows it.",
                self.folder,
                place / FOLDER,
                place,
            )
        return meta | {"parts": [self._part]}

    def _keep_within_limit(self) -> None:
        kept = self.segments()
        others = [self.folder / name for name in (META, LOGS, DROPPED)]
        total = sum(path.stat().st_size for path in [*kept, *others] if path.is_file())
        while total > self.max_bytes and kept[1:] and segment_number(kept[0]) < self._needed:
            oldest = kept.pop(0)
            total -= oldest.stat().st_size
            self._count_dropped(oldest)
            oldest.unlink()
        self._write_dropped()
        if total > self.max_bytes and not self._told_of_size:
            self._told_of_size = True
            logger.warning(
                "A single record makes the credit log %.2f MB large, more than "
                "credit_log_max_mb=%g: only the newest is kept. Allow it more, or log shorter "
                "columns and smaller groups.",
                total / 1e6,
                self.max_bytes / 1e6,
            )

    def _count_dropped(self, segment: Path) -> None:
        """Counts a segment that goes; on a full disk the count waits until it can be written."""
        content = segment.read_bytes()
        groups = content.count(b'"kind": "group"')
        self._uncounted.update({"segments": 1, "groups": groups, "bytes": len(content)})

    def _write_dropped(self) -> None:
        if self._uncounted:
            total = Counter(_counts(self.folder / DROPPED)) + self._uncounted
            replace_json(self.folder / DROPPED, dict(total))
            self._uncounted.clear()


# Settings of TRL's that the report shows beside the method.
SETTINGS = (
    "beta",
    "num_generations",
    "max_completion_length",
    "learning_rate",
    "seed",
)


def run_description(args: Any, method: dict[str, Any]) -> dict[str, Any]:
    """The content of `meta.json`: facts of a run.

    Args:
        args: the trainer's config.
        method: the method's name and, by option, what trains.
    """
    method = {name: number(v) if isinstance(v, float) else v for name, v in method.items()}
    return {
        "run": Path(args.output_dir).name,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": method | {name: _plain(getattr(args, name)) for name in SETTINGS},
        "versions": installed_versions(),
    }


def _plain(value: Any) -> Any:
    """A setting as JSON can say it: a function by its name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else str(value)


def _counts(path: Path) -> dict[str, int]:
    """The numbers in a file's JSON object; none where there is no such thing."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, int)}


def _append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Appends one line per record, on a line of its own also behind a torn one."""
    lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
    with path.open("a+b") as file:
        if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
            lines = "\n" + lines
        file.write(lines.encode("ascii"))
