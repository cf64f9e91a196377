"""The KL term where it carries process-set weights or stands beside a traced ratio.

TRL's loss has one log-probability for both its terms. Once the policy term is fed a trace, or the
KL term a weight, the KL term is computed here instead, with TRL's estimator and normalisers.
Shape suffixes: B completions of a micro-batch, T completion positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Their denominator spans the generation batch.
NORMALISED_BY_THE_BATCH = ("dapo", "cispo")


@dataclass(frozen=True)
class LossScale:
    """How TRL's loss turns token losses into one number.

    Attributes:
        loss_type: TRL's `loss_type`.
        max_completion_length: the constant of `dr_grpo`.
        num_items_in_batch: policy tokens of the generation batch, over all processes.
        num_processes: number of processes.
        accumulation: micro-batches per optimiser step (1 in evaluation).
        windows: optimiser steps per generation batch, `steps_per_generation / accumulation` (1 in
            evaluation).
    """

    loss_type: str
    max_completion_length: int
    num_items_in_batch: Tensor
    num_processes: int
    accumulation: int
    windows: float

    def reduce(self, token_loss_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """The mean over the loss type's denominator, before accumulation."""
        total_B = (token_loss_BT * mask_BT).sum(1)
        if self.loss_type in ("grpo", "sapo"):
            return (total_B / mask_BT.sum(1).clamp(min=1.0)).mean()
        if self.loss_type == "bnpo":
            return total_B.sum() / mask_BT.sum().clamp(min=1.0)
        if self.loss_type == "dr_grpo":
            return total_B.sum() / (mask_BT.shape[0] * self.max_completion_length)
        assert self.loss_type in NORMALISED_BY_THE_BATCH, self.loss_type
        tokens = self.num_items_in_batch.clamp(min=1.0) / self.num_processes
        return total_B.sum() * self.windows / tokens

    @property
    def divisor(self) -> int:
        """The micro-batches that the reduced loss has yet to be divided by."""
        return 1 if self.loss_type in NORMALISED_BY_THE_BATCH else self.accumulation


def per_token_kl(
    logps_BT: Tensor,
    reference_logps_BT: Tensor,
    old_logps_BT: Tensor,
    *,
    bias_correction: bool,
) -> Tensor:
    """KL(π_θ ‖ π_ref) per token: exp(d) − d − 1 with d = log π_ref − log π_θ.

    With `bias_correction` it is multiplied by the *untraced* ratio exp(log π_θ − log π_old),
    gradient and all, so that its gradient is that of the reverse KL.

    Source: GRPO, arXiv 2402.03300, eq. 4; DeepSeek-V3.2, arXiv 2512.02556, section 3.1.
    """
    d_BT = reference_logps_BT - logps_BT
    kl_BT = torch.exp(d_BT) - d_BT - 1
    return kl_BT * torch.exp(logps_BT - old_logps_BT) if bias_correction else kl_BT
