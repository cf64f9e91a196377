"""The format of the credit log, once for writing and reading.

Files in `<output_dir>/credit_log/`: `meta.json` (settings, versions), `logs.jsonl` (one line per
TRL log), `records-NNNNN.jsonl` (groups when they are scored; and, joined by a row id, the values of
a completion's first update), `dropped.json` (what the size limit cost).

Shape suffixes: B completions of this process, T completion positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
FOLDER = "credit_log"
META, LOGS, DROPPED, SEGMENTS = "meta.json", "logs.jsonl", "dropped.json", "records-*.jsonl"

# Lists of a completion with an entry for each of its tokens: when it is scored, and at its update.
GROUP_LISTS = ("pieces", "ids", "mask", "advantage", "weight", "trace_weight", "size")
UPDATE_LISTS = ("logps", "old_logps", "z_abs", "ratio", "kl", "clipped")
MAY_BE_NULL = ("z_abs", "kl")
# A record of an update may have these, too: entropy of the next-token distribution, in nats.
OPTIONAL_UPDATE_LISTS = ("entropy",)


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
        "reward": number(rows.reward_B[i].item()),
        "rewards": {
            name.removeprefix("rewards/"): number(values[i])
            for name, values in rows.table.items()
            if name.startswith("rewards/")
        },
        "group_advantage": number(rows.group_advantage_B[i].item()),
        "advantage": numbers(rows.advantage_BT[i, :n]),
        "weight": numbers(rows.weight_BT[i, :n]),
        "trace_weight": numbers(rows.gain_BT[i, :n]),
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
        "logps": numbers(update.logps_BT[i, :n]),
        "old_logps": numbers(update.old_logps_BT[i, :n]),
        "z_abs": numbers(update.z_BT[i, :n].abs()),
        "ratio": numbers(ratio),
        "kl": None if update.kl_BT is None else numbers(update.kl_BT[i, :n]),
        "clipped": clipped.int().tolist(),
    }


def numbers(values: Tensor) -> list[float | None]:
    return [number(value) for value in values.detach().to(torch.float64).tolist()]


def number(value: float | None) -> float | None:
    """Five significant digits; JSON has no NaN and no infinity."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, (str, int, type(None))) else str(value)
