"""Liger's own GRPO loss, which TRL had before 1.14 and which no hook of the seam can reach."""

from __future__ import annotations

from typing import Any

import trl
from trl import GRPOTrainer


def refuse_liger_loss(args: Any) -> None:
    """Raises ValueError for `use_liger_kernel` where it replaces TRL's loss.

    Before 1.14 TRL hands the whole loss to Liger, which would train without the trace, the weights
    and the KL term that the hooks put into TRL's own. From 1.14 on Liger computes parts of TRL's
    loss or of the model, and credit reaches it.
    """
    if args.use_liger_kernel and hasattr(GRPOTrainer, "compute_liger_loss"):
        raise ValueError(
            f"use_liger_kernel=True: in trl {trl.__version__} Liger computes the whole loss, and "
            "credit for single tokens would not reach it. Install a newer TRL, pip install "
            '"trl>=1.14", or set it to False.'
        )
