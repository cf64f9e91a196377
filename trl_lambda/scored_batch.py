"""A generated batch, before and after TRL scored it: what the trainer makes credit from.

Shape suffixes: B completions of this process, N of all processes, T completion positions,
P prompt positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .functional import Branches
from .functional.td_errors import StepRewards


@dataclass(frozen=True)
class SampledBatch:
    """A batch before it has rewards; the rows of this process.

    Attributes:
        completion_ids_BT, prompt_ids_BP: token ids, −1 where padded.
        lengths_B: completion tokens, tool tokens included; 0 if masked out as truncated.
        mask_BT: policy tokens, bool.
        has_images: whether the model saw images with this process's rows.
        columns: the data set's other columns, one value for each completion.
    """

    completion_ids_BT: Tensor
    prompt_ids_BP: Tensor
    lengths_B: Tensor
    mask_BT: Tensor
    has_images: bool
    columns: Mapping[str, Sequence[Any]]

    @property
    def tokens_B(self) -> Tensor:
        """Completion tokens, also of those that are masked out as truncated."""
        return (self.completion_ids_BT >= 0).sum(1)


@dataclass(frozen=True)
class ScoredBatch(SampledBatch):
    """Local rows (B) unless the suffix says all (N).

    Attributes:
        advantage_B: TRL's group-normalised reward.
        reward_N: weighted sum of the outcome rewards, NaN where all abstain.
        steps: for each process reward function the steps of all N completions.
        images_added: whether completions (of any process) show images that are not in the data set.
        first_row: index among the N of this process's first row.
        group_size: completions per prompt, in training or evaluation.
        prompts, completions: as reward functions get them: texts, or lists of messages.
        branches: where each completion was forked, parents as rows among the N; None where none
            was.
    """

    advantage_B: Tensor
    reward_N: Tensor
    steps: Sequence[Sequence[StepRewards | None]]
    images_added: bool
    first_row: int
    group_size: int
    prompts: Sequence[Any]
    completions: Sequence[Any]
    branches: Branches | None = None

    @property
    def rows(self) -> slice:
        """This process's rows among the N."""
        return slice(self.first_row, self.first_row + self.lengths_B.shape[0])

    @property
    def local_branches(self) -> Branches | None:
        """`branches` with parents as rows of this process, which has whole trees."""
        if self.branches is None:
            return None
        return replace(self.branches, parent_B=self.branches.parent_B - self.first_row)

    @property
    def group_ids_N(self) -> Tensor:
        """The number of each completion's group."""
        rows_N = torch.arange(self.reward_N.shape[0], device=self.reward_N.device)
        return rows_N // self.group_size
