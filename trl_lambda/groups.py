"""Whole groups on every process: a group may straddle processes, its process sets may not.

Shape suffixes: B completions of this process, W completions of whole groups (B, or those of all
processes), T completion positions, P prompt positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from .functional import PrefixSets, prefix_sets, split_groups_by_prompt
from .seam import ScoredBatch


@dataclass(frozen=True)
class WholeGroups:
    """The completions of whole groups, and where this process's rows are among them."""

    sets: PrefixSets
    reward_W: Tensor
    rows: slice
    width: int

    def local_sizes(self, sizes_WT: Tensor) -> Tensor:
        """`(B, T)`: this process's rows of the process-set sizes."""
        return sizes_WT[self.rows, : self.width]

    def local_values(self) -> Tensor:
        """`(B, T+1)`: this process's rows of V."""
        return self.sets.mean(self.reward_W)[self.rows, : self.width + 1]


def whole_groups(accelerator: Accelerator, batch: ScoredBatch) -> WholeGroups:
    """Gathers token ids once if groups straddle processes, and nothing otherwise.

    Whether they straddle follows from the number of rows, which is the same everywhere.
    """
    B, width = batch.completion_ids_BT.shape
    completions, prompts, lengths = batch.completion_ids_BT, batch.prompt_ids_BP, batch.lengths_B
    first, rows = batch.first_row, slice(0, B)
    if B % batch.group_size:
        completions, prompts, lengths = _gather(accelerator, batch)
        first, rows = 0, slice(first, first + B)
    W = completions.shape[0]
    group_ids_W = (first + torch.arange(W, device=completions.device)) // batch.group_size
    return WholeGroups(
        sets=prefix_sets(completions, lengths, split_groups_by_prompt(group_ids_W, prompts)),
        reward_W=batch.reward_N[first : first + W],
        rows=rows,
        width=width,
    )


def _gather(accelerator: Accelerator, batch: ScoredBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Completions, prompts and lengths of all processes, in one gather of token ids."""
    completions = accelerator.pad_across_processes(batch.completion_ids_BT, dim=1, pad_index=-1)
    prompts = accelerator.pad_across_processes(
        batch.prompt_ids_BP, dim=1, pad_index=-1, pad_first=True
    )
    packed = torch.cat([batch.lengths_B[:, None], prompts, completions], 1)
    gathered = accelerator.gather(packed)
    T = completions.shape[1]
    return gathered[:, -T:], gathered[:, 1:-T], gathered[:, 0]
