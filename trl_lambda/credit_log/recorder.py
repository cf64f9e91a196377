"""Follows sampled groups from their scoring to their first update, and writes both down.

Credit, weights and process sets are known when completions are scored, and written at once.
Log-probabilities, ratio and KL are known only in the loss, after TRL has shuffled the rows, and on
the process that holds the row: a row number travels with the batch, and each micro-batch of the
first pass hands its rows to the process that writes.

Whatever goes wrong here is told and ends no training. A process that cannot describe its rows still
meets the others where they exchange theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from .cutting import Cut, Room, shortened
from .faults import Tolerance
from .format import FirstUpdate, ScoredRows, describe_prompt, describe_row, describe_update
from .writing import CreditLog

GROUPS_PER_RECORD = 2
NOT_RECORDED = -1
# Errors of files (a full disk, a folder that has gone), and of JSON.
WRITING = (OSError, ValueError, TypeError)


class CreditRecorder:
    """All processes have one and call it alike; only the main process has files.

    It records nothing before `begin`.

    Args:
        folder: the credit log's.
        every: optimiser steps between two records; below 1 a share of the training's steps.
        micro_batches: loss calls in which a generated batch is seen for the first time.
        clipped: where the loss clips, from ratio and advantage.

    Attributes:
        log: None on all processes but the main one.
        tolerance: tells faults, and keeps them from the training.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        tokenizer: Any,
        folder: Path,
        *,
        every: float,
        max_mb: float,
        micro_batches: int,
        clipped: Callable[[Tensor, Tensor], Tensor],
    ):
        self.accelerator = accelerator
        self.tokenizer = tokenizer
        self.log = CreditLog(folder, max_mb) if accelerator.is_main_process else None
        self.every = every
        self.micro_batches = micro_batches
        self.clipped = clipped
        self.tolerance = Tolerance()
        self.begun = False
        self._steps = 1
        self._recorded_step: int | None = None
        self._left = 0
        self._cuts: dict[str, Cut | None] = {}

    def begin(
        self, about: dict[str, Any], *, step: int, max_steps: int, resumes: str | None = None
    ) -> str | None:
        """Begins the record of a training; returns its run id on the main process.

        Args:
            about: the content of `meta.json`.
            step: the step from which it trains.
            max_steps: its last one.
            resumes: run id of the training that it resumes.
        """
        self.begun, self.tolerance = True, Tolerance()
        self._steps = steps_between(self.every, max_steps)
        self._recorded_step, self._left = None, 0
        self._cuts = {}
        if self.log is None:
            return None
        with self.tolerance.of(*WRITING, doing="beginning the credit log"):
            self.log.begin(about, from_step=step, resumes=resumes)
        return self.log.run_id

    @property
    def watching(self) -> bool:
        """Whether the next loss call sees rows of a recorded batch for the first time."""
        return self._left > 0

    def due(self, step: int) -> bool:
        return self._recorded_step is None or step >= self._recorded_step + self._steps

    def record_groups(
        self, rows: ScoredRows, *, step: int, first_row: int, group_size: int
    ) -> Tensor:
        """Writes the first groups of the batch; `(B,)` row numbers to travel with the batch."""
        self._recorded_step, self._left = step, self.micro_batches
        B = rows.reward_B.shape[0]
        own: list[tuple[int, str, dict]] = []
        with self._describing():
            own = [
                (
                    number // group_size,
                    describe_prompt(rows, number - first_row, self.tokenizer),
                    describe_row(rows, number - first_row, f"{step}-{number}", self.tokenizer),
                )
                for number in range(first_row, min(first_row + B, GROUPS_PER_RECORD * group_size))
            ]
        everyones = gather_object(own)
        if self.log is not None and self.begun:
            with self.tolerance.of(*WRITING, doing="writing the credit log"):
                groups = whole_groups(everyones, step, group_size)
                self._cuts = _cut_to_size(groups, Room(self.log.record_bytes))
                self.log.write_records(groups, begin=True)
        number_B = torch.arange(first_row, first_row + B, device=rows.reward_B.device)
        return number_B.masked_fill(number_B >= GROUPS_PER_RECORD * group_size, NOT_RECORDED)

    def record_update(self, number_B: Tensor, update: FirstUpdate) -> None:
        """Writes what the loss saw of the recorded rows among these."""
        self._left -= 1
        step = self._recorded_step
        assert step is not None
        own: list[dict[str, Any]] = []
        with self._describing():
            own = [
                describe_update(update, i, f"{step}-{number}", step, clipped=self.clipped)
                for i, number in enumerate(number_B.tolist())
                if number != NOT_RECORDED
            ]
        everyones = gather_object(own)
        if self.log is not None and self.begun:
            with self.tolerance.of(*WRITING, doing="writing the credit log"):
                self._write_updates(everyones)

    def write_log(self, step: int, metrics: dict[str, Any]) -> None:
        """Writes what the trainer logs; the main process does."""
        if self.log is not None:
            with self.tolerance.of(*WRITING, doing="writing the credit log"):
                self.log.write_log(step, metrics)

    def end(self) -> None:
        """Tells how often something went wrong in this training."""
        self.tolerance.tell()

    def _describing(self):
        """Any error: a tokenizer and objects that a reward function logged are others' code."""
        return self.tolerance.of(
            Exception, doing="describing completions for the credit log", everywhere=True
        )

    def _write_updates(self, updates: list[dict[str, Any]]) -> None:
        """Those of completions that are in the log, cut as they were."""
        known = [update for update in updates if update["row"] in self._cuts]
        cuts = [self._cuts[update["row"]] for update in known]
        if known:
            self.log.write_records(
                cut.update(update) if cut else update
                for update, cut in zip(known, cuts, strict=True)
            )


def steps_between(every: float, max_steps: int) -> int:
    """Whole steps; a share of `max_steps` is rounded up, as transformers does."""
    return max(1, math.ceil(max_steps * every) if every < 1 else int(every))


def whole_groups(
    described: list[tuple[int, str, dict]], step: int, group_size: int
) -> list[dict[str, Any]]:
    """Group records; a group of which a process could not describe its rows is left out."""
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
    return [group for group in groups.values() if len(group["completions"]) == group_size]


def _cut_to_size(groups: list[dict[str, Any]], room: Room) -> dict[str, Cut | None]:
    """Shortens what does not fit, in place; the cut of each row."""
    lengths = [len(row["ids"]) for group in groups for row in group["completions"]]
    kept = room.tokens(lengths)
    cells = sum(len(row["extra"]) for group in groups for row in group["completions"])
    cuts: dict[str, Cut | None] = {}
    for group in groups:
        group["prompt"] = shortened(group["prompt"], room.characters(len(groups)))
        for place, row in enumerate(group["completions"]):
            cut = Cut.of(len(row["ids"]), kept, mark=-1 - place)
            cuts[row["row"]] = cut
            row["extra"] = {
                name: shortened(value, room.characters(cells)) if isinstance(value, str) else value
                for name, value in row["extra"].items()
            }
            group["completions"][place] = cut.completion(row) if cut else row
    return cuts
