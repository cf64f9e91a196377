"""The methods, by name: a trainer and what it is told. No method has code of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

GRPO = {"loss_type": "grpo", "scale_rewards": "group"}
DAPO = {"loss_type": "dapo", "scale_rewards": "group"}
DR_GRPO = {"loss_type": "dr_grpo", "scale_rewards": "none"}
SETS = {"process_set_weighting": True}
LAMBDAS = (0.9, 0.95, 0.99)
# What the others are compared with.
REFERENCE = "Dr. GRPO"
# A row names what it sets on top of TRL's GRPO, so that it does not change with our defaults.
NEUTRAL = {"method": "grpo"}


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        family: of methods that are variants of one another; the second stage takes one of some.
        trainer: "stock" is TRL's GRPOTrainer, "ours" LambdaGRPOTrainer.
        settings: what makes the method.
        needs_steps: only on tasks whose steps are rewarded.
        group_share: of a task's completions of a prompt, the share that a group has here; the
            prompts of a generation stay as many.
    """

    family: str
    trainer: str
    settings: dict[str, Any] = field(default_factory=dict)
    needs_steps: bool = False
    group_share: float = 1.0

    @property
    def told(self) -> dict[str, Any]:
        """What its config is told on top of what the task sets."""
        return (NEUTRAL if self.trainer == "ours" else {}) | self.settings


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
            "GRPO-λ", "ours", GRPO | trace(style, mode, decay, normalize)
        )
        for style in ("recent", "both")
        for mode in ("ratio", "weight", "advantage")
        for normalize in (False, True)
        for decay in LAMBDAS
    }


def tree() -> dict[str, Method]:
    """TEMPO, and the λ-return of its critic."""
    base = DR_GRPO | {"td_error": "tree"}
    methods = {"tree 0 (TEMPO)": Method("tree", "ours", base)}
    for decay in LAMBDAS:
        for normalize in (True, False):
            name = f"tree {decay:g}{'' if normalize else ' unnormalised'}"
            settings = base | trace("recent", "advantage", decay, normalize)
            methods[name] = Method("tree", "ours", settings)
    return methods


def process() -> dict[str, Method]:
    """Process supervision as DeepSeekMath has it, alone and beside the outcome."""
    base = GRPO | {"td_error": "process"} | trace("recent", "advantage", 1.0, False)
    return {
        "process": Method("process", "ours", base, True),
        "process + outcome": Method("process", "ours", base | {"reward_weights": [1.0]}, True),
    }


def floors() -> dict[str, Method]:
    """A floor under negative advantages is GRPO-λ's too; here alone, and beside all else."""
    floor = {"advantage_floor": -0.1}
    recent = trace("recent", "advantage", 0.99, True)
    both = trace("both", "advantage", 0.99, True)
    settings = {
        "GRPO": GRPO,
        "Dr. GRPO": DR_GRPO,
        "λ-GRPO": DAPO | SETS,
        "GRPO + recent 0.99": GRPO | recent,
        "GRPO + both 0.99": GRPO | both,
        "Dr. GRPO + recent 0.99": DR_GRPO | recent,
        "Dr. GRPO + sets + recent 0.99": DR_GRPO | SETS | recent,
    }
    return {f"{name} + floor": Method("floor", "ours", s | floor) for name, s in settings.items()}


def combinations() -> dict[str, Method]:
    recent = trace("recent", "advantage", 0.99, True)
    both = trace("both", "advantage", 0.99, True)
    short = trace("recent", "advantage", 0.9, True)
    return {
        "Dr. GRPO + sets": Method("combination", "ours", DR_GRPO | SETS),
        "Dr. GRPO + recent 0.99": Method("combination", "ours", DR_GRPO | recent),
        "Dr. GRPO + both 0.99": Method("combination", "ours", DR_GRPO | both),
        "Dr. GRPO + sets + both 0.99": Method("combination", "ours", DR_GRPO | SETS | both),
        "Dr. GRPO + sets + recent 0.99": Method("combination", "ours", DR_GRPO | SETS | recent),
        "Dr. GRPO + sets + recent 0.9": Method("combination", "ours", DR_GRPO | SETS | short),
        "Dr. GRPO + sets + tree 0": Method(
            "combination", "ours", DR_GRPO | SETS | {"td_error": "tree"}
        ),
        "Dr. GRPO + sets + tree 0.95": Method(
            "combination",
            "ours",
            DR_GRPO | SETS | {"td_error": "tree"} | trace("recent", "advantage", 0.95, True),
        ),
        "Dr. GRPO + terminal 0.99": Method(
            "combination",
            "ours",
            DR_GRPO | {"td_error": "terminal"} | trace("recent", "advantage", 0.99, False),
        ),
    }


def branching() -> dict[str, Method]:
    """The shipped method, each of its choices another way, and its parts alone."""
    rows = {"branch_weights": "rows"}
    variants = {
        "branch": {},
        "branch rows": rows,
        "branch even": {"branch_forks": "even"},
        "branch fraction": {"branch_at": "fraction"},
        "branch entropy": {"branch_at": "entropy"},
        "branch κ 0": {"sibling_shrinkage": 0.0},
        "branch κ ∞": {"sibling_shrinkage": math.inf},
        "branch − floor": {"advantage_floor": -math.inf},
        "branch rows κ ∞": rows | {"sibling_shrinkage": math.inf},
        "branch rows + sets": rows | {"process_set_weighting": True},
        "branch rows − floor": rows | {"advantage_floor": -math.inf},
        "branch, group credit": {"td_error": "group"},
        "branch, group credit − floor": {"td_error": "group", "advantage_floor": -math.inf},
        "sibling credit, independent": {"rollout": "independent"},
    }
    methods = {
        name: Method("branching", "ours", {"method": "branch"} | settings)
        for name, settings in variants.items()
    }
    return methods | {"GRPO, half groups": Method("branching", "stock", GRPO, group_share=0.5)}


def result_ends(ids: list[int], texts: list[str]) -> list[int]:
    """`step_ends` of the task `chain`: a step ends with the digit behind `=`."""
    return [i for i in range(1, len(texts)) if texts[i - 1] == "="]


def probe() -> dict[str, Method]:
    """The answer probe as the critic of λ-returns over steps, on the task `chain`, and without."""
    asks = {
        "method": "probe",
        "probe_text": "#",
        "answer_column": "gold",
        "step_ends": "benchmarks.learning.methods.result_ends",
    }
    methods = {
        f"probe λ {decay:g}": Method("probe", "ours", asks | {"trace_lambda": decay})
        for decay in (0.5, 0.8, 1.0)
    }
    return {"DAPO, batch": Method("probe", "stock", DAPO | {"scale_rewards": "batch"})} | methods


METHODS: dict[str, Method] = {
    "DAPO": Method("baseline", "stock", DAPO),
    # What the package's default was before it became TRL's GRPO: on TRL's loss.
    "DAPO + recent 0.99 + floor": Method(
        "floor",
        "ours",
        DAPO | trace("recent", "advantage", 0.99, True) | {"advantage_floor": -0.1},
    ),
    "GRPO": Method("baseline", "stock", GRPO),
    "Dr. GRPO": Method("baseline", "stock", DR_GRPO),
    # The paper's clip range (arXiv 2507.18071), and TRL's.
    "GSPO": Method(
        "baseline",
        "stock",
        GRPO | {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    ),
    "GSPO ε 0.2": Method("baseline", "stock", GRPO | {"importance_sampling_level": "sequence"}),
    "λ-GRPO": Method("λ-GRPO", "ours", DAPO | SETS),
    **grpo_lambda(),
    # The paper's floor under negative advantages, with its better style.
    "GRPO-λ both ratio 0.99 paper, floor": Method(
        "GRPO-λ",
        "ours",
        GRPO | trace("both", "ratio", 0.99, False) | {"advantage_floor": -0.1},
    ),
    **floors(),
    **tree(),
    **process(),
    **combinations(),
    **branching(),
    **probe(),
}
