"""Checks of single option values; combinations are `rule`'s."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from .functional.normalization import SCALES
from .methods import (
    BRANCH_AT,
    BRANCH_FORKS,
    BRANCH_OPTIONS,
    BRANCH_WEIGHTS,
    LENGTH,
    LINES,
    METHODS,
    OPTIONS,
    RETIRED,
    ROLLOUTS,
    SEQUENCE_LOSSES,
    TOKEN_LOSSES,
    TRACE_MODES,
    TRACE_STYLES,
    TRACE_UNITS,
)
from .td_errors import TD_ERRORS, td_error_name


def value_fault(option: str, value: Any) -> str | None:
    """Says what an option's value must be where it is something else; None where it is valid.

    Nothing is said about combinations of options, and None (unset) is no value.

    Raises:
        ValueError: there is no such option.
    """
    if option in CHOICES:
        return None if value in CHOICES[option] else one_of(CHOICES[option])
    if option == "td_error":
        return _td_error_fault(value)
    if option in ("normalize_trace", "process_set_weighting", "probe_calibration"):
        return None if isinstance(value, bool) else "it must be True or False"
    if option == "trace_lambda":
        inside = is_number(value) and 0.0 <= value <= 1.0
        return (
            None if inside or value == LENGTH else f"it must be a number in [0, 1], or {LENGTH!r}"
        )
    if option == "trace_alpha":
        positive = is_number(value) and 0.0 < value < math.inf
        return None if positive else "it must be a number > 0"
    if option == "probe_text":
        is_text = isinstance(value, str) and value
        return None if is_text else "it must be a text that is not empty"
    if option == "step_ends":
        return _step_ends_fault(value)
    if option == "sibling_shrinkage":
        allowed = is_number(value) and value >= 0.0
        return None if allowed else "κ must be a number ≥ 0; inf keeps the group's mean"
    if option in BRANCH_OPTIONS:
        return _branch_fault(option, value)
    if option == "advantage_floor":
        allowed = is_number(value) and value <= 0.0
        return None if allowed else "it must be a number ≤ 0; -inf is no floor"
    if option in RETIRED:
        return RETIRED[option]
    raise ValueError(f"unknown option {option!r}; there are method, {', '.join(OPTIONS)}.")


CHOICES: Mapping[str, tuple[str, ...]] = {
    "method": tuple(METHODS),
    "trace_style": TRACE_STYLES,
    "trace_mode": TRACE_MODES,
    "trace_per": TRACE_UNITS,
    "rollout": ROLLOUTS,
    "branch_forks": BRANCH_FORKS,
    "branch_at": BRANCH_AT,
    "branch_weights": BRANCH_WEIGHTS,
    "loss_type": (*TOKEN_LOSSES, *SEQUENCE_LOSSES),
    "scale_rewards": SCALES,
}


def _branch_fault(option: str, value: Any) -> str | None:
    """As `value_fault`, of the numbers that say where completions are forked."""
    if option in ("branch_roots", "branch_levels"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if option == "branch_roots":
            return None if whole and value >= 1 else "it must be a whole number ≥ 1"
        return None if whole and 1 <= value <= 3 else "it must be 1, 2 or 3"
    if option == "branch_fraction":
        inside = is_number(value) and 0.0 < value < 1.0
        return None if inside else "it must be a number between 0 and 1, neither of them"
    allowed = is_number(value) and 0.0 < value < math.inf
    return None if allowed else "it must be a number > 0, in nats"


def is_number(value: Any) -> bool:
    """Whether it is a real number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def one_of(choices: tuple[str, ...]) -> str:
    return f"it must be one of {', '.join(map(repr, choices))}"


def _td_error_fault(value: Any) -> str | None:
    is_name = isinstance(value, str) and (value in TD_ERRORS or "." in value.strip("."))
    if is_name or callable(value):
        return None
    return f"{one_of(tuple(TD_ERRORS))}, a function, or its dotted path, package.module.function"


def _step_ends_fault(value: Any) -> str | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    is_name = isinstance(value, str) and (value == LINES or "." in value.strip("."))
    if is_count or is_name or callable(value):
        return None
    return (
        f"it must be {LINES!r}, a whole number ≥ 1 of tokens, a function of a completion's token "
        "ids and their texts, or its dotted path, package.module.function"
    )


def named(value: Any) -> Any:
    """A function's dotted name; other values as they are."""
    return td_error_name(value) if callable(value) else value
