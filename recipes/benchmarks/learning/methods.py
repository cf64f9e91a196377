"""The methods, by name: a trainer and what it is told. No method has code of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

GRPO = {"loss_type": "grpo", "scale_rewards": "group"}
DAPO = {"loss_type": "dapo", "scale_rewards": "group"}
DR_GRPO = {"loss_type": "dr_grpo", "scale_rewards": "none"}
NO_FLOOR = {"advantage_floor": -math.inf}
STOCK, OURS = "GRPOTrainer", "LambdaGRPOTrainer"


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        trainer: the name of its class.
        told: what its config is told on top of what the task sets.
        answered: it asks for the answer, which a task may not have.
        group_share: of a task's completions of a prompt, the share that a group has here; the
            prompts of a generation stay as many.
        steps_share: of the steps that the task gives a run.
    """

    trainer: str
    told: dict[str, Any] = field(default_factory=dict)
    answered: bool = False
    group_share: float = 1.0
    steps_share: float = 1.0


def trained(told: dict[str, Any], **fields: Any) -> Method:
    """A method of this package."""
    return Method(OURS, told, **fields)


def result_ends(ids: list[int], texts: list[str]) -> list[int]:
    """`step_ends` of the task `chain`: a step ends with the digit behind `=`."""
    return [i for i in range(1, len(texts)) if texts[i - 1] == "="]


BASELINES = {
    "GRPO": Method(STOCK, GRPO),
    "Dr. GRPO": Method(STOCK, DR_GRPO),
    "DAPO": Method(STOCK, DAPO),
    # TRL's config takes a KL term unless it is told otherwise; the others have none.
    "RLOO": Method("RLOOTrainer", {"beta": 0.0}),
}

TRACES = {
    "GRPO-λ": trained({"method": "grpo_lambda"}),
    "GRPO-λ − floor": trained({"method": "grpo_lambda"} | NO_FLOOR),
    "GRPO-λ normalised": trained({"method": "grpo_lambda", "normalize_trace": True}),
    "GRPO-λ normalised − floor": trained(
        {"method": "grpo_lambda", "normalize_trace": True} | NO_FLOOR
    ),
    "GRPO + floor": trained({"method": "grpo", "loss_type": "grpo", "advantage_floor": -0.1}),
    "λ-GRPO": trained({"method": "lambda_grpo"}),
}

CHOSEN = {"branch_at": "entropy"}
FORKS = {
    "branch": trained({"method": "branch"}),
    "branch, chosen forks": trained({"method": "branch"} | CHOSEN),
    # Steps of `branch` generate about three quarters of what GRPO's do: so many of GRPO's take as
    # many tokens as `branch` in all.
    "GRPO, branch's tokens": Method(STOCK, GRPO, steps_share=0.75),
}

ASKS = {
    "method": "probe",
    "probe_text": "#",
    "answer_column": "answer",
    "step_ends": "benchmarks.learning.methods.result_ends",
}
PROBES = {
    f"probe λ {decay:g}": trained(ASKS | {"trace_lambda": decay}, answered=True)
    for decay in (0.5, 0.8, 1.0)
} | {"probe + branch": trained(ASKS | {"rollout": "branch"}, answered=True)}

ROWS = {"branch_weights": "rows"}
# The shipped method, each of its choices another way, and its parts alone.
BRANCHING = {
    name: trained({"method": "branch"} | told)
    for name, told in {
        "branch rows": ROWS,
        "branch even": {"branch_forks": "even"},
        "branch fraction": {"branch_at": "fraction"},
        "branch κ 0": {"sibling_shrinkage": 0.0},
        "branch κ ∞": {"sibling_shrinkage": math.inf},
        "branch − floor": NO_FLOOR,
        "branch rows κ ∞": ROWS | {"sibling_shrinkage": math.inf},
        "branch rows + sets": ROWS | {"process_set_weighting": True},
        "branch rows − floor": ROWS | NO_FLOOR,
        "branch, group credit": {"td_error": "group"},
        "branch, group credit − floor": {"td_error": "group"} | NO_FLOOR,
        "sibling credit, independent": {"rollout": "independent"},
    }.items()
} | {"GRPO, half groups": Method(STOCK, GRPO, group_share=0.5)}

METHODS: dict[str, Method] = BASELINES | TRACES | FORKS | PROBES | BRANCHING


def check_names(names: Iterable[str]) -> None:
    """Raises SystemExit where there is no method of a name."""
    if unknown := [name for name in names if name not in METHODS]:
        raise SystemExit(f"--methods: no {', '.join(unknown)}; there are {', '.join(METHODS)}.")
