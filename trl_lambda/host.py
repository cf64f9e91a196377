"""Facts that TRL's and transformers' trainers have, though no documentation promises them."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


def callbacks(trainer: Any) -> list[TrainerCallback]:
    """The trainer's callbacks in the order in which they are called; changes to it count."""
    return trainer.callback_handler.callbacks


def reward_names(trainer: Any) -> list[str]:
    """The names under which the trainer logs its reward functions; changes to them count."""
    return trainer.reward_func_names


def under_deepspeed(trainer: Any) -> bool:
    return trainer.is_deepspeed_enabled


def under_fsdp(trainer: Any) -> bool:
    return trainer.is_fsdp_enabled
