"""Which values the options of the method take, for `LambdaGRPOConfig` and for the bridges."""

from __future__ import annotations

import math
import numbers
from typing import Any

from .credit import TD_ERRORS, TRACE_MODES, TRACE_STYLES
from .functional.normalization import SCALES

CHOICES = {
    "td_error": TD_ERRORS,
    "trace_style": TRACE_STYLES,
    "trace_mode": TRACE_MODES,
    "scale_rewards": SCALES,
}


def is_number(value: Any) -> bool:
    """Whether it is a real number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def value_fault(name: str, value: Any) -> str | None:
    """What an option's value must be, in words, where it is not that; None if it is.

    Of combinations of options nothing is said.
    """
    if name in CHOICES:
        return None if value in CHOICES[name] else one_of(CHOICES[name])
    if name in ("normalize_trace", "process_set_weighting"):
        return None if isinstance(value, bool) else "it must be True or False"
    if name in ("trace_lambda", "trace_gamma"):
        inside = is_number(value) and 0.0 <= value <= 1.0
        return None if inside else "it must be a number in [0, 1]"
    if name == "advantage_floor":
        allowed = value is None or (is_number(value) and -math.inf < value <= 0.0)
        return None if allowed else "it must be a finite number ≤ 0, or None for no floor"
    raise KeyError(name)


def one_of(choices: tuple[str, ...]) -> str:
    return f"it must be one of {', '.join(map(repr, choices))}"
