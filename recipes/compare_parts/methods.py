"""The methods, by name: a trainer and what it is told. No method has code of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

GRPO = {"loss_type": "grpo", "scale_rewards": "group"}
DAPO = {"loss_type": "dapo", "scale_rewards": "group"}
DR_GRPO = {"loss_type": "dr_grpo", "scale_rewards": "none"}
NO_TRACE = {"trace_style": "none"}
NO_SETS = {"process_set_weighting": False}
SETS = {"process_set_weighting": True}
LAMBDAS = (0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        family: of methods that are variants of one another; the second stage takes one of some.
        trainer: "stock" is TRL's GRPOTrainer, "ours" LambdaGRPOTrainer.
        settings: on top of what the task sets and the trainer's config has as defaults.
        needs_steps: only on tasks whose steps are rewarded.
    """

    family: str
    trainer: str
    settings: dict[str, Any] = field(default_factory=dict)
    needs_steps: bool = False


def trace(style: str, mode: str, decay: float, normalize: bool) -> dict[str, Any]:
    return {
        "trace_style": style,
        "trace_mode": mode,
        "trace_lambda": decay,
        "normalize_trace": normalize,
    }


def grpo_lambda() -> dict[str, Method]:
    """GRPO-λ in all its forms; `paper` is the unnormalised trace, which the paper has."""
    return {
        f"GRPO-λ {style} {mode} {decay:g}{'' if normalize else ' paper'}": Method(
            "GRPO-λ", "ours", GRPO | NO_SETS | trace(style, mode, decay, normalize)
        )
        for style in ("recent", "both")
        for mode in ("ratio", "weight", "advantage")
        for normalize in (False, True)
        for decay in LAMBDAS
    }


def tree() -> dict[str, Method]:
    """TEMPO, and the λ-return of its critic."""
    base = DR_GRPO | NO_SETS | {"td_error": "tree"}
    methods = {"tree 0 (TEMPO)": Method("tree", "ours", base | NO_TRACE)}
    for decay in LAMBDAS:
        for normalize in (True, False):
            name = f"tree {decay:g}{'' if normalize else ' unnormalised'}"
            settings = base | trace("recent", "advantage", decay, normalize)
            methods[name] = Method("tree", "ours", settings)
    return methods


def process() -> dict[str, Method]:
    """Process supervision as DeepSeekMath has it, alone and beside the outcome."""
    base = GRPO | NO_SETS | {"td_error": "process"} | trace("recent", "advantage", 1.0, False)
    return {
        "process": Method("process", "ours", base, True),
        "process + outcome": Method("process", "ours", base | {"reward_weights": [1.0]}, True),
    }


def combinations() -> dict[str, Method]:
    recent = trace("recent", "advantage", 0.99, True)
    both = trace("both", "advantage", 0.99, True)
    short = trace("recent", "advantage", 0.9, True)
    return {
        "Dr. GRPO + sets": Method("combination", "ours", DR_GRPO | SETS | NO_TRACE),
        "Dr. GRPO + recent 0.99": Method("combination", "ours", DR_GRPO | NO_SETS | recent),
        "Dr. GRPO + both 0.99": Method("combination", "ours", DR_GRPO | NO_SETS | both),
        "Dr. GRPO + sets + both 0.99": Method("combination", "ours", DR_GRPO | SETS | both),
        "Dr. GRPO + sets + recent 0.9": Method("combination", "ours", DR_GRPO | SETS | short),
        "Dr. GRPO + sets + tree 0": Method(
            "combination", "ours", DR_GRPO | SETS | NO_TRACE | {"td_error": "tree"}
        ),
        "Dr. GRPO + sets + tree 0.95": Method(
            "combination",
            "ours",
            DR_GRPO | SETS | {"td_error": "tree"} | trace("recent", "advantage", 0.95, True),
        ),
        "Dr. GRPO + terminal 0.99": Method(
            "combination",
            "ours",
            DR_GRPO
            | NO_SETS
            | {"td_error": "terminal"}
            | trace("recent", "advantage", 0.99, False),
        ),
    }


METHODS: dict[str, Method] = {
    "DAPO": Method("baseline", "stock", DAPO),
    "GRPO": Method("baseline", "stock", GRPO),
    "Dr. GRPO": Method("baseline", "stock", DR_GRPO),
    # The paper's clip range (arXiv 2507.18071), and TRL's.
    "GSPO": Method(
        "baseline",
        "stock",
        GRPO | {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    ),
    "GSPO ε 0.2": Method("baseline", "stock", GRPO | {"importance_sampling_level": "sequence"}),
    "λ-GRPO": Method("λ-GRPO", "ours", DAPO | SETS | NO_TRACE),
    **grpo_lambda(),
    # The paper's floor under negative advantages, with its better style.
    "GRPO-λ both ratio 0.99 paper, floor": Method(
        "GRPO-λ",
        "ours",
        GRPO | NO_SETS | trace("both", "ratio", 0.99, False) | {"advantage_floor": -0.1},
    ),
    **tree(),
    **process(),
    **combinations(),
    # What LambdaGRPOTrainer does if nothing is said.
    "defaults": Method("defaults", "ours"),
}
