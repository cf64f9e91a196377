"""The reference policy of iterative GRPO: the policy of some steps ago, also under PEFT.

`sync_ref_model` moves the reference towards the policy every `ref_model_sync_steps` optimiser
steps, reference ← (1 − α)·reference + α·policy with α = `ref_model_mixup_alpha` (DeepSeekMath,
arXiv 2402.03300, algorithm 1, sets reference := policy: α = 1). TRL has that for whole models. With
PEFT the reference is the policy's own base under a second, frozen adapter named "ref", which TRL
takes for the reference's log-probabilities wherever it is there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from trl import GRPOConfig, SyncRefModelCallback

POLICY, REFERENCE = "default", "ref"


@contextmanager
def sync_taken_from_trl(args: GRPOConfig) -> Iterator[bool]:
    """Builds TRL's trainer as if without `sync_ref_model`, which it refuses under PEFT.

    Yields:
        Whether a reference is to be synchronised; with beta = 0 there is none, as TRL will say.
    """
    synced = args.sync_ref_model and args.beta != 0.0
    args.sync_ref_model = args.sync_ref_model and not synced
    try:
        yield synced
    finally:
        args.sync_ref_model = args.sync_ref_model or synced


def reference_sync(
    model: nn.Module, ref_model: nn.Module | None, accelerator: Accelerator
) -> TrainerCallback:
    """The callback that moves the reference; a PEFT model gets its adapter "ref" for that."""
    if ref_model is not None:
        return SyncRefModelCallback(ref_model, accelerator)
    add_reference_adapter(model)
    return SyncReferenceAdapter(accelerator)


def add_reference_adapter(model: Any) -> None:
    """Gives a PEFT model the frozen adapter "ref", equal to the trained one, if it has none."""
    if REFERENCE in model.peft_config:
        return
    config = copy.deepcopy(model.peft_config[POLICY])
    if hasattr(config, "init_lora_weights"):
        # Data-dependent initialisations (PiSSA, ...) would change the base weights once more.
        config.init_lora_weights = True
    if hasattr(config, "lora_dropout"):
        config.lora_dropout = 0.0  # the KL term would measure the reference's dropout, too
    model.add_adapter(REFERENCE, config)
    policy, reference = adapter_pair(model)
    with torch.no_grad():
        for target, source in zip(reference, policy, strict=True):
            target.copy_(source)


def adapter_pair(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of the trained adapter and of the reference, in the same order."""
    named = dict(model.named_parameters())
    names = [name for name in named if f".{REFERENCE}." in f"{name}."]
    twins = [f"{name}.".replace(f".{REFERENCE}.", f".{POLICY}.").rstrip(".") for name in names]
    return [named[name] for name in twins], [named[name] for name in names]


class SyncReferenceAdapter(TrainerCallback):
    """Moves the adapter "ref" towards the trained one every `ref_model_sync_steps` steps."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % args.ref_model_sync_steps:
            return
        policy, reference = adapter_pair(self.accelerator.unwrap_model(model))
        SyncRefModelCallback.sync_target_model(
            nn.ParameterList(policy), nn.ParameterList(reference), args.ref_model_mixup_alpha
        )


def save_reference(
    folder: Path, parameters: list[nn.Parameter], *, process: int, writes_whole: bool
) -> None:
    """Writes a reference's values: one file of shards a process under FSDP2, else one file.

    Args:
        writes_whole: whether this process writes where every process holds all values.
    """
    sharded = any(isinstance(parameter, DTensor) for parameter in parameters)
    values = [value.cpu() if sharded or writes_whole else None for value in _values(parameters)]
    if sharded or writes_whole:
        torch.save(values, _file(folder, parameters, process))


def load_reference(folder: Path, parameters: list[nn.Parameter], *, process: int) -> None:
    """Puts back what `save_reference` wrote.

    Raises:
        ValueError: no such file, or one of another model; the message has the likely cause.
    """
    path = _file(folder, parameters, process)
    if not path.is_file():
        raise ValueError(_lacking(folder, path.name))
    saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if len(saved) != len(parameters):
        raise ValueError(
            f"sync_ref_model=True: the reference in {path} has {len(saved)} parameters, and this "
            f"one has {len(parameters)}. Resume with the model, or the adapter, that it was saved "
            "with."
        )
    for target, value in zip(_values(parameters, modified=True), saved, strict=True):
        if target.shape != value.shape:
            raise ValueError(
                f"sync_ref_model=True: the reference in {path} has a parameter of shape "
                f"{tuple(value.shape)} where this one has {tuple(target.shape)}. Resume with the "
                "model, the adapter, and the engine that it was saved with."
            )
        target.copy_(value)


def _lacking(folder: Path, name: str) -> str:
    others = sorted(path.name for path in folder.glob("reference*.pt"))
    if others:
        return (
            f"sync_ref_model=True: {folder} has no {name}, but {', '.join(others)}: the reference "
            "was saved by another number of processes or another engine. Resume with those."
        )
    return (
        f"sync_ref_model=True: {folder} holds no reference ({name}): it was saved without "
        "sync_ref_model, or by another trainer. Resume without sync_ref_model, or start a new "
        "run from these weights, whose reference they then are."
    )


def _file(folder: Path, parameters: list[nn.Parameter], process: int) -> Path:
    sharded = any(isinstance(parameter, DTensor) for parameter in parameters)
    return folder / (f"reference_{process}.pt" if sharded else "reference.pt")


def _values(parameters: list[nn.Parameter], *, modified: bool = False) -> Iterator[Tensor]:
    """This process's part of each: its shard under FSDP2, else all, gathered under ZeRO-3."""
    for parameter in parameters:
        context: Any = nullcontext()
        if hasattr(parameter, "ds_id"):
            import deepspeed

            context = deepspeed.zero.GatheredParameters(
                [parameter], modifier_rank=0 if modified else None
            )
        with context, torch.no_grad():
            yield parameter.to_local() if isinstance(parameter, DTensor) else parameter.data
