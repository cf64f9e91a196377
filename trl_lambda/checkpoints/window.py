"""A generation window in a checkpoint: its completions, and the settings under which they hold.

GRPO generates a batch and trains on it for some updates. TRL's record of it (completions,
advantages, log-probabilities) is a result of the settings below: under others it would be other
numbers, or lack some that the loss asks for.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig

# Fields of GRPOConfig by which completions are sampled, and scored.
SAMPLING = (
    "max_completion_length",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "generation_kwargs",
    "chat_template_kwargs",
    "max_tool_calling_iterations",
    "mask_truncated_completions",
    "use_vllm",
)
SCORING = (
    "beta",
    "sync_ref_model",
    "loss_type",
    "scale_rewards",
    "reward_weights",
    "multi_objective_aggregation",
)
WITH_VLLM = (
    "vllm_structured_outputs_regex",
    "vllm_importance_sampling_correction",
    "vllm_importance_sampling_mode",
    "vllm_importance_sampling_clip_min",
    "vllm_importance_sampling_clip_max",
)
UNKNOWN = "unknown"


def batch_settings(args: GRPOConfig) -> dict[str, Any]:
    """Settings of TRL that the tensors of a generated batch depend on, beside its sizes."""
    names = (*SAMPLING, *SCORING, *(WITH_VLLM if args.use_vllm else ()))
    # An older TRL may lack one, and then has no such setting.
    return {name: getattr(args, name, None) for name in names}


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`name old → new` for each setting that is not what it was, or was not written down."""
    names = dict.fromkeys((*was, *now))
    pairs = ((name, was.get(name, UNKNOWN), now.get(name, UNKNOWN)) for name in names)
    return [f"{name} {old} → {new}" for name, old, new in pairs if old != new]


def plain(value: Any) -> Any:
    """The value in Python's own types, so that it can be saved and compared in another process.

    An object of another type becomes the name of its type.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    if hasattr(value, "tolist"):  # NumPy's or torch's
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def moved(value: Any, device: Any) -> Any:
    """Copies on `device` of the tensors in lists and dicts; other values as they are."""
    if isinstance(value, Tensor):
        # A clone: a slice would be saved with the whole tensor that it is cut from.
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(part, device) for part in value)
    return value


def window_file(checkpoint: Path, process: int) -> Path:
    return checkpoint / f"generation_window_{process}.pt"


def read_window(checkpoint: Path, process: int) -> dict[str, Any] | None:
    """The window that the process saved, tensors unread as yet; None where it saved nothing."""
    path = window_file(checkpoint, process)
    if not path.is_file():
        return None
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
