"""A warning when vLLM seems to sample from other weights than the trainer's.

TRL scores each sampled token with the policy before it trains on it and logs the mean distance to
the log-probability that vLLM sampled it with, |log π − log π_vLLM|. With the same weights that is
rounding and differing kernels: about 0.001 to 0.05 in bfloat16, from the first step to the last.
When a sync does not arrive the engine keeps older weights, so the distance starts there and then
grows with every update; when the engine has another model, or the wrong chat template or sampling
settings, it is large at once.
"""

from __future__ import annotations

import math
from typing import Any

from accelerate.logging import get_logger
from transformers import TrainerCallback

logger = get_logger(__name__)

# TRL's name, and there only while vllm_importance_sampling_correction is on.
DIFFERENCE = "sampling/sampling_logp_difference/mean"

# A mean of 0.1 nat a token is a sequence of 100 tokens e^10 times likelier by one of the two.
NOTICEABLE = 0.1
GROWTH = 5.0
LARGE = 0.5
PATIENCE = 3


class SamplingMismatchWarning(TrainerCallback):
    """Warns after `patience` logs in a row whose difference is too large for rounding.

    Too large is more than `growth` times the first logged difference (of the first sync, when the
    engine still has the weights that training began from) and more than `noticeable`; or more than
    `large` whatever the first one was. One warning for each such stretch.

    Args:
        noticeable, large: mean |log π − log π_vLLM| per token, in nats.
        growth: factor over the first logged difference.
        patience: logs in a row.
    """

    def __init__(
        self,
        *,
        noticeable: float = NOTICEABLE,
        growth: float = GROWTH,
        large: float = LARGE,
        patience: int = PATIENCE,
    ):
        self.noticeable, self.growth = noticeable, growth
        self.large, self.patience = large, patience
        self.first: float | None = None
        self.in_a_row = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        difference = (logs or {}).get(DIFFERENCE)
        if difference is None:  # an evaluation, or steps on completions sampled before
            return
        difference = float(difference)
        if self.first is None:
            self.first = difference
        self.in_a_row = self.in_a_row + 1 if self._too_large(difference) else 0
        if self.in_a_row == self.patience:
            logger.warning(self._message(state.global_step, difference))

    def _too_large(self, difference: float) -> bool:
        assert self.first is not None
        limit = min(max(self.noticeable, self.growth * self.first), self.large)
        return math.isnan(difference) or difference > limit

    def _message(self, step: int, difference: float) -> str:
        return (
            f"Step {step}: vLLM seems to sample from other weights than the trainer's. The mean "
            f"|log π − log π_vLLM| of the sampled tokens is {difference:.3g} per token, too large "
            f"in the last {self.patience} logs, and was {self.first:.3g} in the first; equal "
            "weights differ by rounding, about 0.001 to 0.05. If it grows from step to step, the "
            "weight sync does not arrive: check that vLLM serves this run's model and was started "
            "with weight transfer. If it was large from the start, vLLM has another model, dtype "
            "or sampling settings (logprobs_mode must be 'processed_logprobs'). Completions that "
            "vllm_importance_sampling_mode cuts off by their ratio are not learnt from."
        )
