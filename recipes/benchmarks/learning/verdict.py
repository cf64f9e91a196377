"""When a method is level with TRL's GRPO, and when it is better; for small tasks and for language.

Fixed before any result was looked at. A method is *level* where the lower end of the paired 95 %
interval of its difference to GRPO is ≥ −0.01, in final accuracy and in pass@k. It is *better* where
it is level and that end is above 0 in accuracy, or where it is level and needs at most 0.75 of the
generated tokens to reach GRPO's final accuracy. Everything else is *not shown*.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from .estimators import Estimate, first_reach

# The method of the small tasks that the others are compared with: TRL's own trainer.
REFERENCE = "GRPO"
MARGIN = -0.01
FEWER_TOKENS = 0.75
# A run as (generated tokens, accuracy), along it; one that crashed is empty.
Curve = tuple[Sequence[float], Sequence[float]]


def verdict(accuracy: Estimate, pass_at_k: Estimate, tokens: float | None) -> str:
    """What is shown of a method.

    Args:
        accuracy, pass_at_k: paired differences to the reference.
        tokens: see `tokens_ratio`.
    """
    if min(accuracy.low, pass_at_k.low) < MARGIN:
        return "not shown"
    fewer = tokens is not None and tokens <= FEWER_TOKENS
    return "better" if accuracy.low > 0 or fewer else "level"


def tokens_ratio(ours: Sequence[Curve], theirs: Sequence[Curve]) -> float | None:
    """Median generated tokens to the reference's mean final accuracy, over the reference's own.

    None where half of the runs of a side or more never have it. It is not rounded: the rule's
    limit is compared with what was measured.
    """
    target = statistics.fmean(curve[1][-1] if curve[1] else 0.0 for curve in theirs)
    reach = [
        statistics.median(first_reach(*curve, target) if curve[1] else math.inf for curve in side)
        for side in (ours, theirs)
    ]
    return reach[0] / reach[1] if all(map(math.isfinite, reach)) and reach[1] else None
