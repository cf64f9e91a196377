"""When a method is level with TRL's GRPO, and when it is better; for small tasks and for language.

Fixed before any result was looked at, but for how tokens are counted: those of the median run are
infinite where half of GRPO's runs end below their mean. A method is *level* where the lower end of
the paired 95 % interval of its difference to GRPO is ≥ −0.01, in final accuracy and in pass@k. It
is *better* where it is level and that end is above 0 in accuracy, or where it is level and its mean
accuracy needs at most 0.75 of the generated tokens to become GRPO's final one. Everything else is
*not shown*.
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
    """Generated tokens at which a method's mean accuracy has been the reference's final one.

    It is a share of the tokens at which the reference's own mean was first there; None where the
    method's mean never is. A run that crashed counts as never right. The share is not rounded: the
    rule's limit is compared with what was measured.
    """
    mean, reference = mean_curve(ours), mean_curve(theirs)
    if not mean[1] or not reference[1]:
        return None
    reach, own = (first_reach(*curve, reference[1][-1]) for curve in (mean, reference))
    return reach / own if math.isfinite(reach) and own else None


def mean_curve(runs: Sequence[Curve]) -> Curve:
    """Mean tokens and accuracy at each point of runs that have as many; empty if all crashed."""
    ran = [run for run in runs if run[1]]
    tokens = [statistics.fmean(at) for at in zip(*(tokens for tokens, _ in ran), strict=True)]
    right = [math.fsum(at) / len(runs) for at in zip(*(values for _, values in ran), strict=True)]
    return tokens, right
