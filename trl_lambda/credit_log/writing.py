"""Files of the credit log: appended while training, of bounded size.

One process writes. Lines are appended whole, so a kill costs at most the last one, and a restart
begins a new segment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..atomic_write import replace_json, replace_text
from ..versions import installed_versions
from .format import DROPPED, FORMAT, LOGS, META, SEGMENTS, number


class CreditLog:
    """Append-only files of bounded size.

    Args:
        folder: made if it is not there; segments of an earlier run in it are kept, and count.
        max_mb: megabytes (10⁶ bytes) on disk, all files together; the oldest segments go first.
    """

    def __init__(self, folder: Path, max_mb: float):
        self.folder = folder
        self.max_bytes = int(max_mb * 1e6)
        self.segment_bytes = max(self.max_bytes // 10, 1)
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.stem.split("-")[1]) for path in self.segments()]
        self._segment = max(numbers, default=-1) + 1

    def segments(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob(SEGMENTS))

    def write_meta(self, meta: dict[str, Any]) -> None:
        replace_json(self.folder / META, {"format": FORMAT, **meta})

    def write_records(self, records: Iterable[dict[str, Any]]) -> None:
        path = self.folder / f"records-{self._segment:05d}.jsonl"
        _append(path, records)
        if path.stat().st_size >= self.segment_bytes:
            self._segment += 1
        self._keep_within_limit()

    def write_log(self, step: int, metrics: dict[str, Any]) -> None:
        path = self.folder / LOGS
        numbers = {k: number(v) for k, v in metrics.items() if isinstance(v, (int, float))}
        _append(path, [{"step": step, "metrics": numbers}])
        if path.stat().st_size > self.segment_bytes:
            # Every second line tells the curve too; counted from the first, so that runs over
            # several seeds keep steps in common.
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            replace_text(path, "".join(lines[::2]))

    def _keep_within_limit(self) -> None:
        segments = self.segments()
        total = sum(path.stat().st_size for path in self.folder.iterdir())
        while total > self.max_bytes and len(segments) > 1:
            oldest = segments.pop(0)
            total -= oldest.stat().st_size
            self._count_dropped(oldest)
            oldest.unlink()

    def _count_dropped(self, segment: Path) -> None:
        path = self.folder / DROPPED
        dropped = json.loads(path.read_text()) if path.exists() else {}
        text = segment.read_text(encoding="utf-8")
        more = {"segments": 1, "groups": text.count('"kind": "group"'), "bytes": len(text.encode())}
        replace_json(path, {k: dropped.get(k, 0) + n for k, n in more.items()})


class LogToCreditLog(TrainerCallback):
    """Copies what the trainer logs into the credit log."""

    def __init__(self, log: CreditLog):
        self.log = log

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.log.write_log(state.global_step, logs or {})


# Settings of TRL's that the report shows beside the method.
SETTINGS = (
    "beta",
    "num_generations",
    "max_completion_length",
    "learning_rate",
    "seed",
)


def run_description(args: Any, method: dict[str, Any]) -> dict[str, Any]:
    """What `meta.json` says of a run.

    Args:
        args: the trainer's config.
        method: the method's name and, by option, what trains.
    """
    finite = {name: number(v) if isinstance(v, float) else v for name, v in method.items()}
    return {
        "run": Path(args.output_dir).name,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": finite | {name: getattr(args, name) for name in SETTINGS},
        "versions": installed_versions(),
    }


def _append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, allow_nan=False) + "\n")
