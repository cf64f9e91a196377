"""The format of the credit log, once for writing and reading.

Files in `<output_dir>/credit_log/`: `meta.json` (settings, versions, the parts of the run),
`logs.jsonl` (one line per TRL log), `records-NNNNN.jsonl` (groups when they are scored; and, joined
by a row id, the values of a completion's first update), `dropped.json` (what the size limit cost).

Every line has the `run_id` of the part of the run that wrote it (`runs.py`); lines of earlier
versions have none. A completion that was too long has `cut`, `{"at": t, "tokens": n}`: entry t of
its lists stands for n tokens that are left out (`cutting.py`).

A completion of a branched group (`rollout="branch"`) has `parent` and `fork`: it took over the
first `fork` tokens of completion number `parent` of its group, counted from 0, and sampled those
behind them. A completion that took over none has its own number and 0. Where `fork` is the number
of a completion's tokens, it is a copy of a completion that ended before it could be forked. A fork
counts tokens as they were sampled, also those that a cut left out. Groups of independent
completions have neither field, and so do logs of earlier versions.

Shape suffixes: B completions of this process, T completion positions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .pieces import token_pieces

FORMAT = 1
FOLDER = "credit_log"
META, LOGS, DROPPED = "meta.json", "logs.jsonl", "dropped.json"

# Lists of a completion with an entry for each of its tokens: when it is scored, and at its update.
GROUP_LISTS = ("pieces", "ids", "mask", "advantage", "weight", "trace_weight", "size")
# With an answer probe: δ of the token, and V before the segment that it is in.
OPTIONAL_GROUP_LISTS = ("td_error", "value")
UPDATE_LISTS = ("logps", "old_logps", "z_abs", "ratio", "kl", "clipped")
MAY_BE_NULL = ("z_abs", "kl")
# A record of an update has these where the loss did: entropy of the next-token distribution, in
# nats. Records of earlier versions have none.
OPTIONAL_UPDATE_LISTS = ("entropy",)

DIGITS = 5
# Powers of ten up to this one are exact in float64, and so are sums and quotients with them.
_EXACT_POWER = 22


def segments(folder: Path) -> list[Path]:
    """The files of records, oldest first; other files in the folder are somebody else's."""
    named = [path for path in folder.glob("records-*.jsonl") if segment_number(path) is not None]
    return sorted(named, key=segment_number)


def segment_number(path: Path) -> int | None:
    match = re.fullmatch(r"records-([0-9]+)\.jsonl", path.name)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class ScoredRows:
    """This process's completions as they are recorded when they are scored; `(B, …)` each.

    Attributes:
        completion_ids_BT, prompt_ids_BP: −1 where padded.
        table: columns of the completions table, one value per completion: rewards by function
            under "rewards/", other columns by their name.
        parent_B, fork_B: in a branched group, whose first tokens a completion took over (the number
            within its group, the own one where it took over none) and how many; else None.
        td_error_BT, value_BT: an answer probe's; NaN where there is none.
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
    parent_B: Tensor | None = None
    fork_B: Tensor | None = None
    td_error_BT: Tensor | None = None
    value_BT: Tensor | None = None


@dataclass(frozen=True)
class FirstUpdate:
    """A micro-batch as the loss saw it; `(B, T)` each.

    Attributes:
        z_BT: the log-ratio, or its trace in `ratio` mode.
        entropy_BT: entropy of the policy at each position; None where the loss had none.
        mask_BT: 1 on the tokens that the loss counts.
        lengths_B: completion tokens.
    """

    logps_BT: Tensor
    old_logps_BT: Tensor
    z_BT: Tensor
    kl_BT: Tensor | None
    advantage_BT: Tensor
    mask_BT: Tensor
    lengths_B: Tensor
    entropy_BT: Tensor | None = None


def describe_row(rows: ScoredRows, i: int, row_id: str, tokenizer: Any) -> dict[str, Any]:
    """A completion's entry in a group record."""
    ids = [token for token in rows.completion_ids_BT[i].tolist() if token >= 0]
    n = len(ids)
    rewards, extra = _cells(rows.table, i)
    return {
        "row": row_id,
        "pieces": token_pieces(tokenizer, ids),
        "ids": ids,
        "mask": rows.mask_BT[i, :n].int().tolist(),
        "reward": number(rows.reward_B[i].item()),
        "rewards": {name: number(value) for name, value in rewards.items()},
        "group_advantage": number(rows.group_advantage_B[i].item()),
        "advantage": numbers(rows.advantage_BT[i, :n]),
        "weight": numbers(rows.weight_BT[i, :n]),
        "trace_weight": numbers(rows.gain_BT[i, :n]),
        "size": rows.size_BT[i, :n].tolist(),
        "extra": {name: _cell(value) for name, value in extra.items()},
        **_origin(rows, i),
        **({} if rows.td_error_BT is None else {"td_error": numbers(rows.td_error_BT[i, :n])}),
        **({} if rows.value_BT is None else {"value": numbers(rows.value_BT[i, :n])}),
    }


def _origin(rows: ScoredRows, i: int) -> dict[str, int]:
    """Where a completion of a branched group comes from; empty for an independent one."""
    if rows.parent_B is None or rows.fork_B is None:
        return {}
    return {"parent": int(rows.parent_B[i]), "fork": int(rows.fork_B[i])}


def describe_prompt(rows: ScoredRows, i: int, tokenizer: Any) -> str:
    return tokenizer.decode([token for token in rows.prompt_ids_BP[i].tolist() if token >= 0])


def describe_update(
    update: FirstUpdate,
    i: int,
    row_id: str,
    step: int,
    *,
    clipped: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Any]:
    """A row's update record.

    Args:
        clipped: where the loss clips, from ratio and advantage.
    """
    n = int(update.lengths_B[i])
    ratio = update.z_BT[i, :n].exp()
    is_clipped = clipped(ratio, update.advantage_BT[i, :n]) & update.mask_BT[i, :n].bool()
    described = {
        "kind": "update",
        "row": row_id,
        "step": step,
        "logps": numbers(update.logps_BT[i, :n]),
        "old_logps": numbers(update.old_logps_BT[i, :n]),
        "z_abs": numbers(update.z_BT[i, :n].abs()),
        "ratio": numbers(ratio),
        "kl": None if update.kl_BT is None else numbers(update.kl_BT[i, :n]),
        "clipped": is_clipped.int().tolist(),
    }
    if update.entropy_BT is not None:
        described["entropy"] = numbers(update.entropy_BT[i, :n])
    return described


def numbers(values: Tensor) -> list[float | None]:
    """Five significant digits each; JSON has no NaN and no infinity."""
    exact = values.detach().to("cpu", torch.float64).numpy()
    finite = np.isfinite(exact)
    rounded = _rounded(np.where(finite, exact, 0.0))
    listed: list[float | None] = rounded.tolist()
    for place in np.flatnonzero(~finite).tolist():
        listed[place] = None
    return listed


def _rounded(values: np.ndarray) -> np.ndarray:
    """An array at once, but for values that no exact power of ten scales."""
    magnitude = np.abs(values)
    exponents = np.floor(np.log10(magnitude, where=magnitude > 0, out=np.zeros_like(magnitude)))
    shift = (DIGITS - 1 - exponents).astype(int)
    scale = 10.0 ** np.minimum(np.abs(shift), _EXACT_POWER)
    small = shift > 0
    digits = np.rint(np.where(small, values * scale, values / scale))
    rounded = np.where(small, digits / scale, digits * scale)
    for place in np.flatnonzero(np.abs(shift) > _EXACT_POWER).tolist():
        rounded[place] = number(values[place])
    return rounded


def number(value: float | None) -> float | None:
    """One number as in `numbers`."""
    try:
        if value is None or not math.isfinite(value):
            return None
    except OverflowError:  # an integer beyond all floats
        return None
    return float(f"{value:.{DIGITS}g}")


def _cells(table: dict[str, list], i: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(rewards, other columns) of row i; None where a column is too short to have one."""
    cells = {name: values[i] if i < len(values) else None for name, values in table.items()}
    rewards = {n.removeprefix("rewards/"): v for n, v in cells.items() if n.startswith("rewards/")}
    return rewards, {n: v for n, v in cells.items() if not n.startswith("rewards/")}


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, (str, int, type(None))) else str(value)
