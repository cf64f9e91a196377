"""Dropout in the policy, which credit over shared prefixes and the traced ratio do without."""

from __future__ import annotations

from torch import nn

from ..rule import CreditRule


def active_dropout(model: nn.Module) -> dict[str, float]:
    """Rates above zero by kind of module: dropout layers (an adapter's too), attention weights."""
    rates: dict[str, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            kind = "lora_dropout" if "lora_dropout" in name else "dropout layers"
            rates[kind] = max(module.p, rates.get(kind, 0.0))
        attention = getattr(module, "attention_dropout", 0.0)
        if isinstance(attention, float) and attention > 0:
            rates["attention_dropout"] = max(attention, rates.get("attention_dropout", 0.0))
    return rates


def dropout_warning(model: nn.Module, rule: CreditRule) -> str | None:
    """The warning of dropout under this rule; None where there is none, or it does no harm."""
    rates = active_dropout(model)
    if not rates or not (rule.traces_ratio or rule.shares_prefixes):
        return None
    found = ", ".join(f"{kind} {rate:g}" for kind, rate in rates.items())
    harms = []
    if rule.shares_prefixes:
        harms.append(
            "completions no longer have one probability on the prefix they share, so process sets "
            "are not what λ-GRPO's theorem 1 (arXiv 2509.21154) says of them"
        )
    if rule.traces_ratio:
        harms.append(
            "the log-ratio is not zero before the first update, and trace_mode='ratio' adds it up"
        )
    return (
        f"The policy trains with dropout ({found}): {'; '.join(harms)}. Set it to 0: "
        "disable_dropout=True for dropout layers, lora_dropout=0 for an adapter, "
        "attention_dropout=0 in the model's config."
    )
