"""The probability ratio in TRL's loss: its level, and where it is clipped."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods import CLIPPED_LOSSES

CAPPED = "cispo"


@dataclass(frozen=True)
class RatioRule:
    """The settings of TRL's loss that concern ρ, and what follows from them.

    Attributes:
        loss_type: one of `CLIPPED_LOSSES` has min(ρA, clip(ρ)A), PPO's; `cispo` caps ρ at
            `epsilon_high`, whatever the sign of A; `sapo` and `vespo` weigh ρ smoothly and clip
            nothing.
        epsilon_low, epsilon_high: the trainer's. For `cispo` `epsilon_high` is the cap itself.
        delta: a cap on ρ in ρA, PPO's losses only, so that a negative A is clipped from above too;
            None for no cap.
        level: "token", or "sequence": one ratio for all tokens of a completion, their geometric
            mean.
    """

    loss_type: str
    epsilon_low: float
    epsilon_high: float
    delta: float | None = None
    level: str = "token"

    @property
    def limits(self) -> tuple[float, float]:
        """(lowest, highest) ρ that no token is clipped at, whatever the sign of its advantage."""
        if self.loss_type in CLIPPED_LOSSES:
            return 1 - self.epsilon_low, 1 + self.epsilon_high
        return -math.inf, self.epsilon_high if self.loss_type == CAPPED else math.inf

    def log_ratio(self, log_ratio_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """`(B, T)`: log ρ as the loss has it, from that of single tokens."""
        if self.level == "token":
            return log_ratio_BT
        tokens_B1 = mask_BT.sum(1, keepdim=True).clamp(min=1)
        return ((log_ratio_BT * mask_BT).sum(1, keepdim=True) / tokens_B1).expand_as(log_ratio_BT)

    def clipped(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """Whether the loss has another factor than ρ before A; never where A is 0."""
        if self.loss_type in CLIPPED_LOSSES:
            used = self._factor(ratio, advantage)
        elif self.loss_type == CAPPED:
            used = ratio.clamp(max=self.epsilon_high)
        else:
            used = ratio
        return (used != ratio) & (advantage != 0) & ~ratio.isnan()

    def _factor(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """The factor before A in the smaller of ρA and clip(ρ)A."""
        low, high = self.limits
        clipped = ratio.clamp(low, high)
        capped = ratio if self.delta is None else ratio.clamp(max=self.delta)
        smallest, largest = torch.minimum(capped, clipped), torch.maximum(capped, clipped)
        return torch.where(advantage > 0, smallest, largest)
