"""Settings of trainings that only measure."""

from __future__ import annotations

import os

import torch
import transformers

# Else TRL warns of rollout_func at every trainer that is made.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

QUIET = {
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "bf16": False,
    "use_cpu": not torch.cuda.is_available(),
    "gradient_checkpointing": False,
}


def silence() -> None:
    """Leaves nothing of transformers on the terminal but errors; for programs, not at an import."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
