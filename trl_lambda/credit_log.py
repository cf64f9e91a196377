"""The credit log: what single tokens of sampled groups got, written while training.

Files in `<output_dir>/credit_log/`: `meta.json` (settings, versions), `logs.jsonl` (one line per
TRL log), `records-NNNNN.jsonl` (groups when they are scored; and, joined by a row id, the values of
a completion's first update), `dropped.json` (what the size limit cost). One process writes; lines
are appended whole, so a kill costs at most the last one, and a restart begins a new segment.

Shape suffixes: B completions of this process, T completion positions.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

FORMAT = 1
GROUPS_PER_RECORD = 2
NOT_RECORDED = -1


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
        return sorted(self.folder.glob("records-*.jsonl"))

    def write_meta(self, meta: dict[str, Any]) -> None:
        _replace(self.folder / "meta.json", json.dumps({"format": FORMAT, **meta}, indent=1))

    def write_records(self, records: Iterable[dict[str, Any]]) -> None:
        path = self.folder / f"records-{self._segment:05d}.jsonl"
        _append(path, records)
        if path.stat().st_size >= self.segment_bytes:
            self._segment += 1
        self._keep_within_limit()

    def write_log(self, step: int, metrics: dict[str, Any]) -> None:
        path = self.folder / "logs.jsonl"
        numbers = {k: _number(v) for k, v in metrics.items() if isinstance(v, (int, float))}
        _append(path, [{"step": step, "metrics": numbers}])
        if path.stat().st_size > self.segment_bytes:
            # Every second line tells the curve too; counted from the first, so that runs over
            # several seeds keep steps in common.
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            _replace(path, "".join(lines[::2]))

    def _keep_within_limit(self) -> None:
        segments = self.segments()
        total = sum(path.stat().st_size for path in self.folder.iterdir())
        while total > self.max_bytes and len(segments) > 1:
            oldest = segments.pop(0)
            total -= oldest.stat().st_size
            self._count_dropped(oldest)
            oldest.unlink()

    def _count_dropped(self, segment: Path) -> None:
        path = self.folder / "dropped.json"
        dropped = json.loads(path.read_text()) if path.exists() else {}
        text = segment.read_text(encoding="utf-8")
        more = {"segments": 1, "groups": text.count('"kind": "group"'), "bytes": len(text.encode())}
        _replace(path, json.dumps({k: dropped.get(k, 0) + n for k, n in more.items()}))


@dataclass(frozen=True)
class ScoredRows:
    """What is recorded of this process's completions when they are scored; `(B, …)` each.

    Attributes:
        completion_ids_BT, prompt_ids_BP: −1 where padded.
        table: columns of the completions table, one value per completion: rewards by function
            under "rewards/", other columns by their name.
    """

    completion_ids_BT: Tensor
    prompt_ids_BP: Tensor
    mask_BT: Tensor
    reward_B: Tensor
    group_advantage_B: Tensor
    advantage_BT: Tensor
    weight_BT: Tensor
    gain_BT: Tensor
    size_BT: Tensor
    table: dict[str, list]


@dataclass(frozen=True)
class FirstUpdate:
    """What the loss saw of a micro-batch; `(B, T)` each.

    Attributes:
        z_BT: the log-ratio, or its trace in `ratio` mode.
        lengths_B: completion tokens.
    """

    logps_BT: Tensor
    old_logps_BT: Tensor
    z_BT: Tensor
    kl_BT: Tensor | None
    advantage_BT: Tensor
    lengths_B: Tensor


def describe_row(rows: ScoredRows, i: int, row_id: str, tokenizer: Any) -> dict[str, Any]:
    """A completion's entry in a group record."""
    ids = [token for token in rows.completion_ids_BT[i].tolist() if token >= 0]
    n = len(ids)
    return {
        "row": row_id,
        "pieces": [tokenizer.decode([token]) for token in ids],
        "ids": ids,
        "mask": rows.mask_BT[i, :n].int().tolist(),
        "reward": _number(rows.reward_B[i].item()),
        "rewards": {
            name.removeprefix("rewards/"): _number(values[i])
            for name, values in rows.table.items()
            if name.startswith("rewards/")
        },
        "group_advantage": _number(rows.group_advantage_B[i].item()),
        "advantage": _numbers(rows.advantage_BT[i, :n]),
        "weight": _numbers(rows.weight_BT[i, :n]),
        "trace_weight": _numbers(rows.gain_BT[i, :n]),
        "size": rows.size_BT[i, :n].tolist(),
        "extra": {
            name: _cell(values[i])
            for name, values in rows.table.items()
            if not name.startswith("rewards/")
        },
    }


def describe_prompt(rows: ScoredRows, i: int, tokenizer: Any) -> str:
    return tokenizer.decode([token for token in rows.prompt_ids_BP[i].tolist() if token >= 0])


def describe_update(
    update: FirstUpdate, i: int, row_id: str, step: int, *, lower: float, upper: float
) -> dict[str, Any]:
    """A row's update record; clipped as TRL counts it, by the sign of the advantage."""
    n = int(update.lengths_B[i])
    ratio = update.z_BT[i, :n].exp()
    advantage = update.advantage_BT[i, :n]
    clipped = ((ratio < lower) & (advantage < 0)) | ((ratio > upper) & (advantage > 0))
    return {
        "kind": "update",
        "row": row_id,
        "step": step,
        "logps": _numbers(update.logps_BT[i, :n]),
        "old_logps": _numbers(update.old_logps_BT[i, :n]),
        "z_abs": _numbers(update.z_BT[i, :n].abs()),
        "ratio": _numbers(ratio),
        "kl": None if update.kl_BT is None else _numbers(update.kl_BT[i, :n]),
        "clipped": clipped.int().tolist(),
    }


class LogToCreditLog(TrainerCallback):
    """Copies what the trainer logs into the credit log."""

    def __init__(self, log: CreditLog):
        self.log = log

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.log.write_log(state.global_step, logs or {})


SETTINGS = (
    "td_error",
    "trace_style",
    "trace_mode",
    "trace_lambda",
    "trace_gamma",
    "normalize_trace",
    "advantage_floor",
    "process_set_weighting",
    "loss_type",
    "scale_rewards",
    "beta",
    "num_generations",
    "max_completion_length",
    "learning_rate",
    "seed",
)


def run_description(args: Any) -> dict[str, Any]:
    """What `meta.json` says of a run."""
    return {
        "run": Path(args.output_dir).name,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {name: getattr(args, name) for name in SETTINGS},
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
    }


def _append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, allow_nan=False) + "\n")


def _replace(path: Path, text: str) -> None:
    """All or nothing, whenever the process is killed."""
    scratch = path.with_suffix(".new")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def _numbers(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values.detach().to(torch.float64).tolist()]


def _number(value: float | None) -> float | None:
    """Five significant digits; JSON has no NaN and no infinity."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return _number(value)
    return value if isinstance(value, (str, int, type(None))) else str(value)
