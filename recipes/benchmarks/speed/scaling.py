"""Time and memory of credit assignment against the sizes of a batch.

One call is what a trainer does once per generated batch with everything on: process sets, their
sizes and mean rewards, TD errors of `tree`, the slower trace (`both`), weights. Completions leave a
group's common stem anywhere, so that sets split at as many places as there are completions.
"""

from __future__ import annotations

import math

import torch

from trl_lambda.credit import CreditRule, Signal, assign_credit
from trl_lambda.functional import prefix_sets

from .measuring import AllocatedBytes, milliseconds

RULE = CreditRule(td_error="tree", trace_style="both", process_set_weighting=True)
SWEEPS = {
    "T": [{"groups": 2, "size": 8, "length": T} for T in (512, 2048, 8192, 32768, 65536)],
    "G": [{"groups": 4, "size": G, "length": 2048} for G in (4, 8, 16, 32, 64, 128)],
    "groups": [{"groups": P, "size": 8, "length": 2048} for P in (1, 4, 16, 64, 256)],
}


def batch(groups: int, size: int, length: int) -> tuple[torch.Tensor, ...]:
    """Token ids, lengths, group ids and rewards of completions that branch off one stem a group."""
    generator = torch.Generator().manual_seed(0)
    B = groups * size
    group_B = torch.arange(B) // size
    stem = torch.randint(0, 50_000, (groups, length), generator=generator)
    own = torch.randint(0, 50_000, (B, length), generator=generator)
    shared_B = torch.randint(0, length, (B,), generator=generator)
    ids = torch.where(torch.arange(length) < shared_B[:, None], stem[group_B], own)
    lengths_B = torch.randint(length // 2, length, (B,), generator=generator) + 1
    rewards_B = torch.randint(0, 2, (B,), generator=generator).float()
    return ids, lengths_B, group_B, rewards_B


def credit(ids, lengths_B, group_B, rewards_B) -> torch.Tensor:
    """`(B, T)` credit, as the trainer assigns it."""
    sets = prefix_sets(ids, lengths_B, group_B)
    signal = Signal(
        mask_BT=(torch.arange(ids.shape[1]) < lengths_B[:, None]).float(),
        advantage_B=rewards_B - rewards_B.mean(),
        sizes_BT=sets.sizes(),
        values_BT1=sets.mean(rewards_B),
        denominator_B=torch.ones_like(rewards_B),
    )
    return assign_credit(RULE, signal).advantage_BT


def measured(shape: dict, repeats: int) -> dict:
    """Median milliseconds of a call, and its most bytes alive at once, also per token."""
    arguments = batch(**shape)
    tokens = arguments[0].numel()
    with AllocatedBytes() as memory:
        credit(*arguments)
    ms = milliseconds(lambda: credit(*arguments), repeats)
    return {
        **shape,
        "tokens": tokens,
        "ms": ms,
        "ns_per_token": 1e6 * ms / tokens,
        "mb": memory.peak / 1e6,
        "bytes_per_token": memory.peak / tokens,
    }


def exponent(rows: list[dict], value: str) -> float:
    """Slope of log(value) over log(tokens), least squares; 1 is linear."""
    x = torch.tensor([math.log(row["tokens"]) for row in rows])
    y = torch.tensor([math.log(row[value]) for row in rows])
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def scaling(repeats: int) -> dict[str, list[dict]]:
    """The sweeps, each row with what it took."""
    return {name: [measured(shape, repeats) for shape in shapes] for name, shapes in SWEEPS.items()}


def large_run(ns_per_token: float, step_seconds: float = 120.0) -> dict:
    """256 GPUs on paper: 512 prompts × 16 completions of up to 4096 tokens behind 512 of prompt.

    Where a GPU holds whole groups nothing is gathered. Where groups straddle, token ids of all
    completions go to every GPU once per generated batch: `(prompt + completion + 1)` int64 each; of
    these a GPU looks at the groups that it has a part of.

    Args:
        ns_per_token: measured here, on one core.
        step_seconds: what a step of such a run takes (sampling, two passes); an assumption.
    """
    gpus, prompts, size, prompt_length, length = 256, 512, 16, 512, 4096
    completions = prompts * size
    local = completions // gpus
    looked_at = local + 2 * (size - 1)  # at worst
    gathered = completions * (prompt_length + length + 1) * 8
    network = 25e9  # bytes a second into a GPU: 200 Gb/s
    gather_ms = 1e3 * gathered / network
    credit_ms = 1e-6 * ns_per_token * looked_at * length
    return {
        "completions_per_gpu": local,
        "groups_per_gpu": local / size,
        "credit_ms_whole_groups": 1e-6 * ns_per_token * local * length,
        "gathered_mb_if_groups_straddle": gathered / 1e6,
        "gather_ms": gather_ms,
        "credit_ms_if_groups_straddle": credit_ms,
        "assumed_step_seconds": step_seconds,
        "percent_of_a_step": (gather_ms + credit_ms) / (10 * step_seconds),
    }


def rows(repeats: int) -> list[dict]:
    """Sweeps over the axes of a batch; the last row is the large run on paper."""
    result = []
    for axis, sweep in scaling(repeats).items():
        result += [{"axis": axis, **row} for row in sweep]
        result[-1] |= {f"{value}_exponent": exponent(sweep, value) for value in ("ms", "mb")}
    slowest = max(row["ns_per_token"] for row in result)
    return [*result, {"axis": "256 GPUs, on paper", **large_run(slowest)}]
