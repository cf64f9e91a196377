"""The method's options, their neutral values, and the named methods: every default, once.

`rule.resolve` turns the options that were given into what trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

TRACE_STYLES = ("none", "recent", "both")
TRACE_MODES = ("advantage", "ratio", "weight")
TRACE_UNITS = ("token", "step")
TOKEN_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")
SEQUENCE_LOSSES = ("luspo", "vespo")
# TRL's losses of the form min(ρA, clip(ρ)A); the others cap ρ, or weigh it smoothly.
CLIPPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")

BRANCHED = "branch"  # as rollout
ROLLOUTS = ("independent", BRANCHED)
BRANCH_FORKS = ("spread", "even")
BRANCH_AT = ("random", "fraction", "newline", "surprise", "entropy", "value")
BRANCH_WEIGHTS = ("rows", "branches")

DEFAULT_METHOD = "default"
NO_FLOOR = -math.inf
LENGTH = "length"  # as trace_lambda: λ = 1 − 1/(α·length)
LINES = "newline"  # as step_ends: a segment ends with a line

# Probe texts, and the word for "as the prompt asks for the answer".
BOXED_PROBE = "\n\nFinal answer: \\boxed{"
AUTO = "auto"

# Values of options where neither the user nor the method says otherwise. With these the
# method is TRL's GRPO. None: normalize_trace follows the TD error, trace_alpha follows trace_per,
# branch_roots is half of num_generations, the last two stay TRL's.
NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {
        "td_error": "group",
        "trace_style": "none",
        "trace_mode": "advantage",
        "trace_lambda": 0.99,
        "trace_alpha": None,
        "trace_per": "token",
        "normalize_trace": None,
        "advantage_floor": NO_FLOOR,
        "process_set_weighting": False,
        "sibling_shrinkage": 1.0,
        "rollout": "independent",
        "branch_roots": None,
        "branch_forks": "spread",
        "branch_at": "random",
        "branch_fraction": 0.5,
        "branch_surprise": 2.0,
        "branch_levels": 1,
        "branch_weights": "rows",
        "probe_text": BOXED_PROBE,
        "step_ends": LINES,
        "probe_calibration": True,
        "loss_type": None,
        "scale_rewards": None,
    }
)
OPTIONS = tuple(NEUTRAL)
TRACE_OPTIONS = ("trace_mode", "trace_lambda", "trace_alpha", "trace_per", "normalize_trace")
# α of trace_lambda="length" where it is unset: VAPO's, and ours for the few steps of a completion.
ALPHAS: Mapping[str, float] = MappingProxyType({"token": 0.05, "step": 1.0})
BRANCH_OPTIONS = tuple(name for name in OPTIONS if name.startswith("branch_"))
ROLLOUT_OPTIONS = ("rollout", *BRANCH_OPTIONS)  # how completions are generated
TRL_OPTIONS = ("loss_type", "scale_rewards")  # TRL has them, too
# The options that say which credit a token gets.
CREDIT_OPTIONS = tuple(name for name in OPTIONS if name not in (*ROLLOUT_OPTIONS, *TRL_OPTIONS))

# Options of earlier versions, and what to do in their place.
RETIRED: Mapping[str, str] = {
    "trace_gamma": "only the product γ·λ was ever used, so the option is gone; leave it out, and "
    "use trace_lambda for the product"
}


@dataclass(frozen=True)
class Preset:
    """A named method: the options that it sets, each with the source of its value.

    Attributes:
        paper: where it is from.
        when: its purpose, in a few words.
        values: by option, (value, source of the value). Other options have their neutral values.
    """

    paper: str
    when: str
    values: Mapping[str, tuple[Any, str]]


# Presets of papers are frozen: a run that names one trains the same with every later version. Only
# "default" moves: to a method that ends no worse than TRL's tuned GRPO on every task of
# `recipes/benchmarks` and in the quickstart, and better on two. None has: it is TRL's GRPO.
METHODS: Mapping[str, Preset] = MappingProxyType(
    {
        DEFAULT_METHOD: Preset(
            "DeepSeekMath, arXiv 2402.03300",
            "to swap the import and lose nothing: TRL's GRPO, until a method is shown to be better",
            {},
        ),
        "grpo": Preset(
            "DeepSeekMath, arXiv 2402.03300", "the baseline: TRL's GRPO, bit for bit", {}
        ),
        "dr_grpo": Preset(
            "Dr. GRPO, arXiv 2503.20783",
            "no bias towards long wrong completions",
            {
                "loss_type": ("dr_grpo", "section 3.1: a constant in place of 1/|o|"),
                "scale_rewards": ("none", "section 3.1: no division by the standard deviation"),
            },
        ),
        "dapo": Preset(
            "DAPO, arXiv 2503.14476",
            "long completions: one normaliser for all tokens",
            {
                "loss_type": ("dapo", "section 3.3, eq. 12: the token-level loss"),
                "scale_rewards": ("group", "eq. 9"),
            },
        ),
        "grpo_lambda": Preset(
            "GRPO-λ, arXiv 2510.00194",
            "the paper's ε-trace: credit spreads over neighbouring tokens",
            {
                "trace_style": ("both", "section 3.2, eq. 2; the better style there"),
                "trace_mode": ("ratio", "section 3.3: the trace of the log-ratio, ε-trace"),
                "trace_lambda": (0.99, "section 4; γ is not told, and taken for 1"),
                "normalize_trace": (False, "section 3.2: the trace is used as it is"),
                "advantage_floor": (-0.1, "section 4: negative advantages are clamped"),
                "loss_type": ("grpo", "the GRPO that it builds on"),
                "scale_rewards": ("group", "the GRPO that it builds on"),
            },
        ),
        "lambda_grpo": Preset(
            "λ-GRPO, arXiv 2509.21154",
            "groups whose completions share prefixes: each distinct prefix counts once",
            {
                "process_set_weighting": (True, "section 4: 1/|process set|"),
                "loss_type": ("grpo", "the authors' training script"),
                "scale_rewards": ("group", "the authors' training script"),
            },
        ),
        "tempo": Preset(
            "TEMPO, arXiv 2509.18314",
            "groups whose completions share prefixes: a critic from the tree they form",
            {
                "td_error": ("tree", "section 3: V(s') − V(s) from the prefix tree"),
                "loss_type": ("grpo", "the GRPO that it builds on"),
                "scale_rewards": ("group", "section 3: the deviation divides both terms"),
            },
        ),
        "branch": Preset(
            "ours; sibling baselines without forks are RLOO's, arXiv 2402.14740",
            "generation is what costs: completions are forked from one another",
            {
                "td_error": ("sibling", "with the group's credit branched groups collapsed"),
                "sibling_shrinkage": (1.0, "the prototype's"),
                "advantage_floor": (-0.1, "GRPO-λ's, here on the credit of a token"),
                "rollout": ("branch", "what the method is"),
                "branch_forks": ("spread", "the prototype's"),
                "branch_at": ("random", "the rule whose mean gradient is exact"),
                "branch_weights": ("branches", "steadier in recipes/benchmarks/learning"),
                "loss_type": ("dapo", "a sum over tokens: what is shared is trained as if once"),
                "scale_rewards": ("group", "the prototype's"),
            },
        ),
        "process": Preset(
            "DeepSeekMath, arXiv 2402.03300, process supervision",
            "rewards of single steps",
            {
                "td_error": ("process", "section 4.1.3"),
                "trace_style": ("recent", "section 4.1.3: a sum over later steps"),
                "trace_mode": ("advantage", "section 4.1.3: the sum is the advantage"),
                "trace_lambda": (1.0, "section 4.1.3: the sum is not discounted"),
                "normalize_trace": (False, "section 4.1.3: the sum is no mean"),
                "loss_type": ("grpo", "eq. 3"),
                "scale_rewards": ("group", "section 4.1.3: over all steps of the group"),
            },
        ),
        "probe": Preset(
            "ours; the λ-return is Schulman et al., arXiv 1506.02438",
            "data with known answers: how likely the policy finds the answer is a critic",
            {
                "td_error": ("probe", "the value of a prefix is how likely the gold is there"),
                "trace_style": ("recent", "the λ-return, eq. 16"),
                "trace_mode": ("advantage", "the λ-return is an advantage"),
                "trace_per": ("step", "a segment is what the critic judges"),
                "trace_lambda": (
                    0.8,
                    "level with 1 and ahead of 0.5 in recipes/benchmarks/learning; per segment",
                ),
                "normalize_trace": (False, "the λ-return is no mean"),
                "loss_type": ("dapo", "a token's term does not depend on the length"),
                "scale_rewards": ("batch", "a group's own deviation may be far below V's error"),
            },
        ),
    }
)


def preset_value(method: str, option: str) -> Any:
    """A method's value of an option: its own, or the neutral one."""
    preset = METHODS[method].values
    return preset[option][0] if option in preset else NEUTRAL[option]
