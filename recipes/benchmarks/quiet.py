"""Settings of trainings that only measure."""

from __future__ import annotations

import os

import torch

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
