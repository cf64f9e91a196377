"""AUC of (answer, right) before each step, with intervals; and the table of several models.

An AUC over all rows is high already where the answers tell easy problems from hard ones. Credit
needs one *within* groups, over pairs of completions of one problem. Intervals are percentiles of a
bootstrap over problems: a problem is drawn with all its completions, because they are not
independent.

G groups (problems), R resamples.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trl_lambda.atomic_write import replace_text
from trl_lambda.evaluation.metrics import pass_at_k
from trl_lambda.probe.worth import auc_by_segment, is_high
from trl_lambda.versions import TRAINING, installed_versions

from ..learning.report import json_text
from ..learning.table import count, insert, number, table
from .probing import Asking
from .questions import QUESTIONS

MARK = "<!-- probe -->"
NAME = "probe_worth.json"
RESAMPLES = 5000
# Equal prefixes have equal answers, whatever a forward pass makes of their last digits.
DIGITS = 4


def worth(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """For each question what it is worth before each step.

    Args:
        rows: from `probing.ask_all`.

    Returns:
        What `SegmentWorth` has, with the intervals `auc_interval` and `auc_within_interval`; None
        where there is no pair of a right and a wrong completion.
    """
    right = [float(row["right"]) for row in rows]
    groups = [row["group"] for row in rows]
    told = {}
    for question in QUESTIONS:
        values = [_rounded(row["values"].get(question, ())) for row in rows]
        if not any(value == value for line in values for value in line):
            continue
        told[question] = [
            _numbers(asdict(one) | _intervals([_at(line, one.segment) for line in values], rows))
            for one in auc_by_segment(values, right, groups)
        ]
    return told


def _rounded(line) -> list[float]:
    return [math.nan if value is None else round(value, DIGITS) for value in line]


def _at(line: list[float], segment: int) -> float:
    return line[segment] if segment < len(line) else math.nan


def _numbers(told: dict[str, Any]) -> dict[str, Any]:
    """For JSON, which has no NaN."""

    def plain(value):
        if isinstance(value, float):
            return None if math.isnan(value) else round(value, 4)
        return [plain(one) for one in value] if isinstance(value, list) else value

    return {name: plain(value) for name, value in told.items()}


def _intervals(values: list[float], rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    wins_GG, pairs_GG = pairs_of_groups(
        torch.tensor(values, dtype=torch.float64),
        torch.tensor([float(row["right"]) for row in rows]),
        torch.tensor([row["group"] for row in rows]),
    )
    return {
        "auc_interval": bootstrap(wins_GG, pairs_GG, within=False),
        "auc_within_interval": bootstrap(wins_GG, pairs_GG, within=True),
    }


def pairs_of_groups(
    value_N: Tensor, reward_N: Tensor, group_N: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(G, G) each: pairs that a high row of one group won against low rows of another; all pairs.

    What was drawn w_g times counts so often: an AUC of a resample is Σ w_g w_h wins / Σ w_g w_h
    pairs over all groups, and Σ w_g wins / Σ w_g pairs over the diagonals within them.
    """
    there_N = ~value_N.isnan()
    high_N = is_high(reward_N)
    pair_NN = (there_N & high_N)[:, None] & (there_N & ~high_N)
    won_NN = (value_N[:, None] > value_N).double() + 0.5 * (value_N[:, None] == value_N)
    member_NG = (group_N[:, None] == group_N.unique()).double()
    wins_GG = member_NG.T @ (won_NN * pair_NN) @ member_NG
    return wins_GG.numpy(), (member_NG.T @ pair_NN.double() @ member_NG).numpy()


def bootstrap(
    wins_GG: NDArray[np.float64], pairs_GG: NDArray[np.float64], *, within: bool
) -> list[float]:
    """95 % interval; resamples without a pair are left out, and with no pair at all it is NaN."""
    groups = len(wins_GG)
    rng = np.random.default_rng(0)
    weights_RG = rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES).astype(float)

    def total(of_GG):
        if within:
            return weights_RG @ np.diagonal(of_GG)
        return np.einsum("rg,gh,rh->r", weights_RG, of_GG, weights_RG, optimize=True)

    wins_R, pairs_R = total(wins_GG), total(pairs_GG)
    if not (pairs_R > 0).any():
        return [math.nan, math.nan]
    return np.percentile((wins_R / pairs_R.clip(1))[pairs_R > 0], [2.5, 97.5]).tolist()


def entry(model: str, rows: list[dict[str, Any]], how: Asking) -> dict[str, Any]:
    """What the JSON has of one model."""
    right_GK = torch.tensor([float(row["right"]) for row in rows]).view(-1, how.samples)
    tokens = sum(row["tokens"] for row in rows)
    correct = right_GK.sum(1).int().tolist()
    return {
        "model": model,
        "asking": {"problems": len(right_GK), "samples": how.samples},
        "accuracy": round(right_GK.mean().item(), 4),
        "pass_at_k": round(float(pass_at_k(correct, how.samples, how.samples).mean()), 4),
        "length": round(tokens / len(rows), 2),
        "entropy": round(sum(row["entropy"] for row in rows) / tokens, 4),
        "mixed_groups": int(((right_GK.mean(1) > 0) & (right_GK.mean(1) < 1)).sum()),
        "questions": worth(rows),
        "versions": installed_versions(*TRAINING),
    }


def write(name: str, told: dict[str, Any], *, results: Path, readme: Path | None) -> list[Path]:
    """Adds a model to the JSON under its name, and the table to the README if it has its marks."""
    path = results / NAME
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data[name] = told
    results.mkdir(parents=True, exist_ok=True)
    replace_text(path, json_text(data))
    written = [path]
    if readme is not None and insert(readme, markdown(data), mark=MARK):
        written.append(readme)
    return written


def markdown(data: dict[str, Any]) -> str:
    """A table for each model; from the JSON alone."""
    head = (
        "AUC of (mean log-probability, right) before each step of a completion, with 95 % "
        "intervals of a bootstrap over problems: over all rows, and *within* groups, over pairs of "
        "completions of one problem. 0.5 is chance. Before the first step all completions of a "
        "problem are the same, so nothing can tell them apart there. *Rows* of a step are "
        "completions that have it, *pairs* those within groups."
    )
    return head + "\n\n" + "\n\n".join(_model(name, told) for name, told in data.items()) + "\n"


def _model(name: str, told: dict[str, Any]) -> str:
    asking = told["asking"]
    head = (
        f"**{name}**: {count(asking['problems'], 'held-out problem')}, "
        f"{count(asking['samples'], 'sample')} of each, {number(told['accuracy'], 3)} of them "
        f"right, pass@{asking['samples']} {number(told['pass_at_k'], 3)}, "
        f"{number(told['length'], 1)} tokens, entropy {number(told['entropy'], 3)}; "
        f"{count(told['mixed_groups'], 'problem')} with right and wrong samples."
    )
    steps = _shown_steps(told["questions"])
    columns = ["asked", "", *(f"{k} steps written" for k in range(steps))]
    columns[2:3] = ["nothing written"]
    if steps > 1:
        columns[3] = "1 step written"
    rows = []
    for question, segments in told["questions"].items():
        for kind, key in (("all rows", "auc"), ("within", "auc_within")):
            shown = segments[:steps] + [None] * (steps - len(segments))
            rows.append([QUESTIONS[question], kind, *(_cell(one, key) for one in shown)])
    first = next(iter(told["questions"].values()))[:steps]
    rows.append(["rows / pairs", "", *(f"{s['rows']} / {s['pairs_within']}" for s in first)])
    return head + "\n\n" + table(columns, rows)


def _shown_steps(questions: dict[str, list[dict[str, Any]]]) -> int:
    """Steps that at least a tenth of the completions have; the first one in any case."""
    segments = next(iter(questions.values()))
    return max(1, sum(s["rows"] * 10 >= segments[0]["rows"] for s in segments))


def _cell(one: dict[str, Any] | None, key: str) -> str:
    if one is None or one[key] is None:
        return "–"
    low, high = one[f"{key}_interval"]
    return f"{number(one[key])} [{number(low)}, {number(high)}]"
