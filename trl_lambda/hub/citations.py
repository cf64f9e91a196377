"""Which papers a run owes something to: those whose switches were on, and no others.

The entries stand in `citations.bib`. Papers behind TRL's own switches are those that TRL's help
names for them; `bnpo` has none there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType, SimpleNamespace
from typing import Any

from ..methods import CLIPPED_LOSSES, NEUTRAL, NO_FLOOR

TRL = "vonwerra2020trl"


@dataclass(frozen=True)
class Method:
    """A method that was on.

    Attributes:
        key: that of its entry in `citations.bib`.
        name: the field's name for it.
        switch: the setting that turned it on, as `name: value`; empty for the base.
        tag: for the front matter of the model card; None for details of a method.
    """

    key: str
    name: str
    switch: str = ""
    tag: str | None = None


def methods(config: Any, in_effect: Mapping[str, Any] = MappingProxyType({})) -> list[Method]:
    """The methods that a run turns on, GRPO first.

    Args:
        config: a `GRPOConfig`.
        in_effect: values that train, by option, in place of the config's fields: a field of ours
            that is None is as the method has it. Empty: the values of the config's own rule.
    """
    on = [Method("shao2024deepseekmath", "GRPO", tag="grpo")]
    trained = SimpleNamespace(**{**vars(config), **in_effect})
    ours = NEUTRAL | (in_effect or _of_rule(getattr(config, "credit_rule", None)))
    candidates = [*_ours(ours), *_losses(trained), *_details(trained)]
    for holds, key, name, switch, tag in candidates:
        if holds and key not in {method.key for method in on}:
            on.append(Method(key, name, switch, tag))
    return on


def _of_rule(rule: Any) -> dict[str, Any]:
    """The options that a `CreditRule` has; empty without one."""
    if rule is None:
        return {}
    floor = NO_FLOOR if rule.advantage_floor is None else rule.advantage_floor
    return {**vars(rule), "trace_lambda": rule.decay, "advantage_floor": floor}


def _ours(values: Mapping[str, Any]) -> list[tuple]:
    style, td_error = values["trace_style"], values["td_error"]
    # λ = 0 with 'recent' is no trace; 'both' keeps a trace on the first token.
    traced = style == "both" or (style == "recent" and values["trace_lambda"] != 0)
    floor = values["advantage_floor"]
    return [
        (
            traced or floor != NO_FLOOR,
            "parthasarathi2025grpolambda",
            "GRPO-λ",
            f"trace_style: {style}" if traced else f"advantage_floor: {floor}",
            "grpo-lambda",
        ),
        (
            values["process_set_weighting"],
            "sullivan2025grpo",
            "λ-GRPO",
            "process_set_weighting: true",
            "lambda-grpo",
        ),
        (td_error == "tree", "tran2025exploiting", "TEMPO", "td_error: tree", "tempo"),
        (
            td_error in ("terminal", "probe"),
            "schulman2015high",
            "GAE",
            f"td_error: {td_error}",
            None,
        ),
    ]


def _losses(c: Any) -> list[tuple]:
    loss = f"loss_type: {c.loss_type}"
    dr_grpo = c.loss_type == "dr_grpo" or c.scale_rewards == "none"
    switch = loss if c.loss_type == "dr_grpo" else "scale_rewards: none"
    level = "importance_sampling_level: sequence"
    return [
        (dr_grpo, "liu2025understanding", "Dr. GRPO", switch, "dr-grpo"),
        (c.loss_type == "dapo", "yu2025dapo", "DAPO", loss, "dapo"),
        (c.loss_type == "cispo", "minimax2025minimaxm1", "CISPO", loss, "cispo"),
        (c.loss_type == "sapo", "gao2025soft", "SAPO", loss, "sapo"),
        (c.loss_type == "luspo", "liu2026length", "LUSPO", loss, "luspo"),
        (c.loss_type == "vespo", "shen2026vespo", "VESPO", loss, "vespo"),
        (c.importance_sampling_level == "sequence", "zheng2025group", "GSPO", level, "gspo"),
    ]


def _details(c: Any) -> list[tuple]:
    clipped = c.loss_type in CLIPPED_LOSSES
    higher = clipped and c.epsilon_high not in (None, c.epsilon)
    dapo = "mask_truncated_completions: true"
    if not c.mask_truncated_completions:
        dapo = f"epsilon_high: {c.epsilon_high}"
    gdpo = c.multi_objective_aggregation == "normalize_then_sum"
    masked = c.off_policy_mask_threshold is not None
    unbiased = c.beta != 0.0 and c.use_bias_correction_kl
    v32 = f"off_policy_mask_threshold: {c.off_policy_mask_threshold}"
    if not masked:
        v32 = "use_bias_correction_kl: true"
    quantile = c.top_entropy_quantile
    return [
        (c.mask_truncated_completions or higher, "yu2025dapo", "DAPO", dapo, None),
        (c.scale_rewards == "batch", "liu2025tricks", "Lite PPO", "scale_rewards: batch", None),
        (gdpo, "liu2026gdpo", "GDPO", "multi_objective_aggregation: normalize_then_sum", "gdpo"),
        (
            quantile < 1,
            "wang2025beyond",
            "High-entropy tokens",
            f"top_entropy_quantile: {quantile}",
            None,
        ),
        (c.sync_ref_model, "gorbatovski2024learn", "TR-DPO", "sync_ref_model: true", None),
        (masked or unbiased, "deepseekai2025v32", "DeepSeek-V3.2", v32, None),
        (
            c.use_adaptive_entropy,
            "he2025skywork",
            "Skywork-OR1",
            "use_adaptive_entropy: true",
            None,
        ),
        (
            clipped and c.delta is not None,
            "primeintellect2025intellect2",
            "INTELLECT-2",
            f"delta: {c.delta}",
            None,
        ),
    ]


def bibtex(keys: list[str]) -> str:
    """The entries, in this order."""
    return "\n\n".join(_entries()[key] for key in keys)


def arxiv_id(key: str) -> str:
    found = re.search(r"arXiv:(\d{4}\.\d{5})", _entries()[key])
    assert found, f"{key} is not an arXiv paper"
    return found[1]


@cache
def _entries() -> dict[str, str]:
    text = files(__package__).joinpath("citations.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in re.split(r"\n(?=@)", text)]
    return {re.match(r"@\w+\{([^,]+),", entry)[1]: entry for entry in entries}
