"""Whole groups on every process: a group may straddle processes, its process sets may not.

Shape suffixes: B completions of this process, W completions of the groups that have one here (B, or
a few more where groups straddle), T completion positions, P prompt positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from .functional import (
    Branches,
    PrefixSets,
    branch_advantages,
    branch_sets,
    branch_weights,
    group_mean,
    prefix_sets,
    sibling_gains,
    split_groups_by_prompt,
)
from .scored_batch import ScoredBatch


@dataclass(frozen=True)
class WholeGroups:
    """The completions of whole groups, and where this process's rows are among them.

    Attributes:
        sets: which completions share a prefix: by branch ids where they were forked, by equal
            tokens elsewhere.
        group_W: number of each completion's group.
        branches: where each completion was forked; None where none was.
        rows: this process's rows among the W.
        begun: rows of the groups that begin on this process: every group begins on one.
        width: completion positions of this process's rows.
    """

    sets: PrefixSets
    reward_W: Tensor
    group_W: Tensor
    branches: Branches | None
    rows: slice
    begun: slice
    width: int

    def local_sizes(self, sizes_WT: Tensor) -> Tensor:
        """`(B, T)`: this process's rows of the process-set sizes."""
        return sizes_WT[self.rows, : self.width]

    def local_values(self) -> Tensor:
        """`(B, T+1)`: this process's rows of V.

        In a forked group the children of a fork count once each, whatever hangs on them: more of
        one root's forks say nothing about its worth.
        """
        values = "leaves" if self.branches is None else "children"
        return self.sets.mean(self.reward_W, values=values)[self.rows, : self.width + 1]

    def local_sibling_gains(self, shrinkage: float) -> Tensor:
        """`(B, T)`: this process's rows of r − b, or of V − b where completions were forked."""
        if self.branches is None:
            mean_W = group_mean(self.reward_W, self.group_W)
            gain_WT = sibling_gains(self.reward_W, self.sets, shrinkage=shrinkage, initial_B=mean_W)
        else:
            gain_WT = branch_advantages(self.reward_W, self.sets, shrinkage=shrinkage)
        return gain_WT[self.rows, : self.width]

    def local_branch_weights(self) -> Tensor | None:
        """`(B, T)`: this process's rows of the weights of branches; None where none was forked."""
        if self.branches is None:
            return None
        weight_WT = branch_weights(self.branches, self.group_W, self.width)
        return weight_WT[self.rows]


def whole_groups(accelerator: Accelerator, batch: ScoredBatch) -> WholeGroups:
    """Gathers token ids once if groups straddle processes, and nothing otherwise.

    Whether they straddle follows from the number of rows, which is the same everywhere. What is
    computed from them stays in proportion to this process's rows, however many processes there are.
    """
    B, width = batch.completion_ids_BT.shape
    G, first = batch.group_size, batch.first_row
    rows = _Rows.of(batch)
    start, end = first // G * G, -(-(first + B) // G) * G
    if B % G:
        rows = rows.gathered(accelerator).part(start, end)
    group_W = torch.arange(start, end, device=batch.lengths_B.device) // G
    branches = rows.branches(start)
    return WholeGroups(
        sets=rows.sets(group_W, branches),
        reward_W=batch.reward_N[start:end],
        group_W=group_W,
        branches=branches,
        rows=slice(first - start, first - start + B),
        begun=slice(-(-first // G) * G - start, end - start),
        width=width,
    )


@dataclass(frozen=True)
class _Rows:
    """Tokens and lengths of any number of rows, from which process sets are made.

    `numbers` has for each row the length, and, where completions were forked, parent (a row of all
    processes) and fork.
    """

    completions: Tensor
    prompts: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, batch: ScoredBatch) -> _Rows:
        numbers = [batch.lengths_B]
        if batch.branches is not None:
            numbers += [batch.branches.parent_B, batch.branches.fork_B]
        return cls(batch.completion_ids_BT, batch.prompt_ids_BP, torch.stack(numbers, 1))

    def gathered(self, accelerator: Accelerator) -> _Rows:
        """Rows of all processes: the widths, then everything at once."""
        completions, prompts, n = self.completions, self.prompts, self.numbers.shape[1]
        widths = torch.tensor([[completions.shape[1], prompts.shape[1]]], device=completions.device)
        T, P = accelerator.gather(widths).amax(0).tolist()
        pad = torch.nn.functional.pad
        packed = torch.cat(
            [
                self.numbers,
                pad(prompts, (P - prompts.shape[1], 0), value=-1),
                pad(completions, (0, T - completions.shape[1]), value=-1),
            ],
            1,
        )
        gathered = accelerator.gather(packed)
        return _Rows(gathered[:, n + P :], gathered[:, n : n + P], gathered[:, :n])

    def part(self, start: int, end: int) -> _Rows:
        return _Rows(self.completions[start:end], self.prompts[start:end], self.numbers[start:end])

    def branches(self, start: int) -> Branches | None:
        """Parents as rows of this part, whose first row is `start`."""
        if self.numbers.shape[1] == 1:
            return None
        return Branches(parent_B=self.numbers[:, 1] - start, fork_B=self.numbers[:, 2])

    def sets(self, group_W: Tensor, branches: Branches | None) -> PrefixSets:
        lengths = self.numbers[:, 0]
        if branches is None:
            groups = split_groups_by_prompt(group_W, self.prompts)
            return prefix_sets(self.completions, lengths, groups)
        return branch_sets(self.completions, lengths, group_W, branches)
