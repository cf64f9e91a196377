"""Substitutes, for one call of TRL's loss, for the log-ratio and the reference.

Shape suffixes: B completions of a micro-batch, T completion positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class LossPlan:
    """The numbers that one call of TRL's loss shall see.

    Attributes:
        trace: maps the log-ratio x to z, or None to leave the ratio alone.
        kl_weight_BT: weight of the KL term (ones where it is unweighted), or None to leave TRL's.
        inputs: a copy of the loss's inputs: the buffered ones serve the next iteration, too.
        advantages: those that the loss trains on, `(B,)` or `(B, T)`.
        lengths_B: tokens of each completion.
        old_logps_BT: log π_old; where TRL stored none, log π_θ as the loss asked for it.
        reference_logps_BT: log π_ref, or None without a KL term.
        logps_BT: the raw log-probabilities, once the loss has asked for them.
        entropy_BT: entropy of the policy at each position, in nats, where the loss asked for
            it: TRL's does, for a metric.
        z_BT: stood for the log-ratio.
    """

    trace: Any
    kl_weight_BT: Tensor | None
    mask_BT: Tensor
    inputs: dict[str, Any] | None = None
    advantages: Tensor | None = None
    lengths_B: Tensor | None = None
    old_logps_BT: Tensor | None = None
    reference_logps_BT: Tensor | None = None
    logps_BT: Tensor | None = None
    entropy_BT: Tensor | None = None
    z_BT: Tensor | None = None

    def inputs_of_loss(self, inputs: dict[str, Any], lengths_B: Tensor) -> dict[str, Any]:
        """A copy for TRL's loss, zeros in the place of `old` where it sees a trace."""
        self.inputs = dict(inputs)
        self.advantages = inputs["advantages"]
        self.lengths_B = lengths_B
        self.old_logps_BT = inputs.get("old_per_token_logps")
        self.reference_logps_BT = inputs.get("ref_per_token_logps")
        if self.trace is not None:
            zeros_BT = torch.zeros(self.mask_BT.shape, device=self.mask_BT.device)
            self.inputs["old_per_token_logps"] = zeros_BT
        return self.inputs

    def intercept(self, logps_BT: Tensor, entropy_BT: Tensor | None) -> Tensor:
        """Takes log π_θ on its way into the loss and hands on what shall stand in its place."""
        assert self.inputs is not None
        self.logps_BT = logps_BT
        self.entropy_BT = entropy_BT
        if self.old_logps_BT is None:
            self.old_logps_BT = logps_BT.detach()
        log_ratio_BT = logps_BT - self.old_logps_BT
        self.z_BT = log_ratio_BT if self.trace is None else self.trace(log_ratio_BT)
        handed_on = logps_BT if self.trace is None else self.z_BT
        if self.kl_weight_BT is not None:
            # exp(0) − 0 − 1: TRL's KL term is 0, and so is its gradient.
            self.inputs["ref_per_token_logps"] = handed_on.detach()
        return handed_on
