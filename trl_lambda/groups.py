"""Whole groups on every process: a group may straddle processes, its process sets may not.

Shape suffixes: B completions of this process, W completions of the groups that have one here (B, or
a few more where groups straddle), T completion positions, P prompt positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from .functional import PrefixSets, prefix_sets, split_groups_by_prompt
from .scored_batch import ScoredBatch


@dataclass(frozen=True)
class WholeGroups:
    """The completions of whole groups, and where this process's rows are among them.

    Attributes:
        rows: this process's rows among the W.
        begun: rows of the groups that begin on this process: every group begins on one.
        width: completion positions of this process's rows.
    """

    sets: PrefixSets
    reward_W: Tensor
    rows: slice
    begun: slice
    width: int

    def local_sizes(self, sizes_WT: Tensor) -> Tensor:
        """`(B, T)`: this process's rows of the process-set sizes."""
        return sizes_WT[self.rows, : self.width]

    def local_values(self) -> Tensor:
        """`(B, T+1)`: this process's rows of V."""
        return self.sets.mean(self.reward_W)[self.rows, : self.width + 1]


def whole_groups(accelerator: Accelerator, batch: ScoredBatch) -> WholeGroups:
    """Gathers token ids once if groups straddle processes, and nothing otherwise.

    Whether they straddle follows from the number of rows, which is the same everywhere. What is
    computed from them stays in proportion to this process's rows, however many processes there are.
    """
    B, width = batch.completion_ids_BT.shape
    G, first = batch.group_size, batch.first_row
    completions, prompts, lengths = batch.completion_ids_BT, batch.prompt_ids_BP, batch.lengths_B
    start, end = first // G * G, -(-(first + B) // G) * G
    if B % G:
        gathered = _gather(accelerator, batch)
        completions, prompts, lengths = (tensor[start:end] for tensor in gathered)
    group_ids_W = torch.arange(start, end, device=completions.device) // G
    return WholeGroups(
        sets=prefix_sets(completions, lengths, split_groups_by_prompt(group_ids_W, prompts)),
        reward_W=batch.reward_N[start:end],
        rows=slice(first - start, first - start + B),
        begun=slice(-(-first // G) * G - start, end - start),
        width=width,
    )


def _gather(accelerator: Accelerator, batch: ScoredBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Completions, prompts and lengths of all processes: the widths, then all token ids at once."""
    completions, prompts = batch.completion_ids_BT, batch.prompt_ids_BP
    widths = torch.tensor([[completions.shape[1], prompts.shape[1]]], device=completions.device)
    T, P = accelerator.gather(widths).amax(0).tolist()
    pad = torch.nn.functional.pad
    packed = torch.cat(
        [
            batch.lengths_B[:, None],
            pad(prompts, (P - prompts.shape[1], 0), value=-1),
            pad(completions, (0, T - completions.shape[1]), value=-1),
        ],
        1,
    )
    gathered = accelerator.gather(packed)
    return gathered[:, P + 1 :], gathered[:, 1 : P + 1], gathered[:, 0]
