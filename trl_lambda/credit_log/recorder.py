"""Follows sampled groups from their scoring to their first update, and writes both down.

What is known when completions are scored (credit, weights, process sets) is written at once. What
the loss makes of them (log-probabilities, ratio, KL) is known only after TRL has shuffled them, on
the process that holds the row: a row number travels with the batch, and each micro-batch of the
first pass hands its rows to the process that writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from .format import FirstUpdate, ScoredRows, describe_prompt, describe_row, describe_update
from .writing import CreditLog

GROUPS_PER_RECORD = 2
NOT_RECORDED = -1


class CreditRecorder:
    """All processes have one and call it alike; only the main process has files.

    Args:
        folder: of the credit log.
        every: optimiser steps between two records.
        micro_batches: loss calls in which a generated batch is seen for the first time.
        clip_range: ratios below or above count as clipped.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        tokenizer: Any,
        folder: Path,
        *,
        every: int,
        max_mb: float,
        micro_batches: int,
        clip_range: tuple[float, float],
    ):
        self.accelerator = accelerator
        self.tokenizer = tokenizer
        self.log = CreditLog(folder, max_mb) if accelerator.is_main_process else None
        self.every = every
        self.micro_batches = micro_batches
        self.clip_range = clip_range
        self._recorded_step: int | None = None
        self._left = 0

    @property
    def watching(self) -> bool:
        """Whether the next loss call sees rows of a recorded batch for the first time."""
        return self._left > 0

    def due(self, step: int) -> bool:
        return self._recorded_step is None or step >= self._recorded_step + self.every

    def record_groups(
        self, rows: ScoredRows, *, step: int, first_row: int, group_size: int
    ) -> Tensor:
        """Writes the first groups of the batch; `(B,)` row numbers to travel with the batch."""
        self._recorded_step, self._left = step, self.micro_batches
        B = rows.reward_B.shape[0]
        recorded = range(first_row, min(first_row + B, GROUPS_PER_RECORD * group_size))
        own = [
            (
                number // group_size,
                describe_prompt(rows, number - first_row, self.tokenizer),
                describe_row(rows, number - first_row, f"{step}-{number}", self.tokenizer),
            )
            for number in recorded
        ]
        everyones = gather_object(own)
        if self.log is not None:
            self.log.write_records(_group_records(everyones, step))
        number_B = torch.arange(first_row, first_row + B, device=rows.reward_B.device)
        return number_B.masked_fill(number_B >= GROUPS_PER_RECORD * group_size, NOT_RECORDED)

    def record_update(self, number_B: Tensor, update: FirstUpdate) -> None:
        """Writes what the loss saw of the recorded rows among these."""
        self._left -= 1
        step = self._recorded_step
        assert step is not None
        lower, upper = self.clip_range
        own = [
            describe_update(update, i, f"{step}-{number}", step, lower=lower, upper=upper)
            for i, number in enumerate(number_B.tolist())
            if number != NOT_RECORDED
        ]
        everyones = gather_object(own)
        if self.log is not None and everyones:
            self.log.write_records(everyones)


def _group_records(described: list[tuple[int, str, dict]], step: int) -> list[dict[str, Any]]:
    groups: dict[int, dict[str, Any]] = {}
    for group, prompt, completion in described:
        record = groups.setdefault(
            group,
            {
                "kind": "group",
                "id": f"{step}-{group}",
                "step": step,
                "mode": "train",
                "prompt": prompt,
                "completions": [],
            },
        )
        record["completions"].append(completion)
    return list(groups.values())
