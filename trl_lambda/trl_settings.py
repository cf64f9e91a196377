"""Settings of TRL's that do not go with token-level credit, or with each other; without trl."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .methods import SEQUENCE_LOSSES, TOKEN_LOSSES


def sequence_level(trl: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """TRL's settings that have no place for token-level credit."""
    plain = "or train without token-level credit: set method='grpo'"
    if trl.get("importance_sampling_level", "token") != "token":
        yield (
            "importance_sampling_level",
            trl["importance_sampling_level"],
            "one ratio per sequence leaves nothing for token-level credit to act on; use 'token', "
            f"{plain}",
        )
    if trl.get("loss_type") in SEQUENCE_LOSSES:
        yield (
            "loss_type",
            trl["loss_type"],
            f"it is a sequence-level loss; use one of {', '.join(TOKEN_LOSSES)}, {plain}",
        )
    if trl.get("off_policy_mask_threshold") is not None:
        yield (
            "off_policy_mask_threshold",
            trl["off_policy_mask_threshold"],
            "it masks whole sequences by the sign of their advantage, which token-level credit "
            f"does not have; set it to None, {plain}",
        )


def unfit(trl: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Settings of TRL's that do not go with each other, and end in a traceback there."""
    if trl.get("loss_type") == "dr_grpo" and trl.get("max_completion_length", 1) is None:
        yield (
            "max_completion_length",
            None,
            "loss_type='dr_grpo' divides by it, the generation budget; set it to a number of "
            "tokens, or use another loss_type",
        )
