"""The arms, by name: every named method of the package is one, and ` + ` adds to it.

    grpo                            the method `grpo` of `trl_lambda.methods`
    grpo + floor                    the same with a floor of −0.1 under negative advantages
    grpo_lambda + trace_lambda=0.9  with one option of the method's set otherwise
    probe + sentences               its segments are sentences, its probe is the task's answer line

A method that is new in the package is an arm by its name alone.
"""

from __future__ import annotations

from typing import Any

import yaml

from trl_lambda.methods import METHODS, OPTIONS

SHORT = {
    "floor": {"advantage_floor": -0.1},
    "no floor": {"advantage_floor": float("-inf")},
    "sets": {"process_set_weighting": True},
    "sentences": {
        "probe_text": "\n#### ",
        "step_ends": "benchmarks.language.sentences.sentence_ends",
    },
}


def settings(arm: str) -> dict[str, Any]:
    """What an arm's config is told.

    Raises:
        SystemExit: a method, an addition or an option is not known.
    """
    method, *additions = (part.strip() for part in arm.split(" + "))
    if method not in METHODS:
        raise SystemExit(f"arm {arm!r}: no method {method!r}; there are {', '.join(METHODS)}.")
    told: dict[str, Any] = {"method": method}
    for addition in additions:
        told |= _addition(arm, addition)
    return told


def _addition(arm: str, addition: str) -> dict[str, Any]:
    if addition in SHORT:
        return SHORT[addition]
    option, equals, text = addition.partition("=")
    if not equals or option not in OPTIONS:
        raise SystemExit(
            f"arm {arm!r}: {addition!r} is neither one of {', '.join(SHORT)} nor OPTION=VALUE with "
            f"an option of {', '.join(OPTIONS)}."
        )
    try:
        return {option: yaml.safe_load(text)}
    except yaml.YAMLError as error:
        raise SystemExit(
            f"arm {arm!r}: the value of {addition!r} is no YAML ({error}); expected a number, a "
            "word or the like."
        ) from None
