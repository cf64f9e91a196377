"""A probe that cannot tell good completions from others says so after some steps."""

from __future__ import annotations

from .no_learning import Symptom

LITTLE = 0.6


def _tells_little(value: float | None) -> bool:
    return value is not None and value < LITTLE


PROBE_KNOWS_LITTLE = Symptom(
    metric="probe/auc_recent",
    shown_by=_tells_little,
    steps=1,
    meaning="over the last batches together, how likely the policy finds the known answer hardly "
    "tells completions with high rewards from others before their last quarter (AUC below "
    f"{LITTLE}; 0.5 is chance)",
    advice="While probe/in_use is 0 training is RLOO's, and the probes cost time for nothing. See "
    "whether probe_text fits the way the prompts ask for the answer (probe_text='auto'), and "
    "whether the answers of answer_column are as the model writes them; a small model may know "
    "nothing of the answer before it has written the steps: then choose another method.",
    beside=tuple(f"probe/auc_{name}_quarter" for name in ("first", "second", "third", "last")),
    told_again=False,
)
