"""A warning before training: settings that leave little of the credit."""

from __future__ import annotations

from ..rule import CreditRule


def vanishing_credit(rule: CreditRule) -> str | None:
    """A normalised trace divides a TD error by its row sum: on few late tokens little is left."""
    traced = rule.traced and rule.trace_mode != "weight"
    if not (rule.entry.sparse and traced and rule.normalize_trace):
        return None
    return (
        f"td_error={rule.td_error!r} puts TD errors on few tokens, and normalize_trace=True "
        "divides them by up to 1/(1-c): credit is about that much smaller than with "
        "normalize_trace unset or False, which is meant for these TD errors."
    )
