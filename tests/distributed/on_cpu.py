"""The engines on a CPU, for scripts that `launching.launch` runs."""

from __future__ import annotations

import contextlib
import os

import torch
from accelerate import DistributedType, PartialState


def process_state() -> PartialState:
    """This process's state; to be called before anything of accelerate is made.

    accelerate turns FSDP and DeepSpeed on for accelerators only, and trains with DDP on a CPU
    without a word; so for these it is told that gloo processes are accelerators whose device is
    called "cpu".
    """
    engine = any(
        os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED")
    )
    torch.set_num_threads(1)
    if not engine:
        return PartialState(cpu=True)
    os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "ACCELERATE_USE_CPU": "false"}
    PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_GPU)
    return PartialState()


@contextlib.contextmanager
def leaving_together():
    """Processes that leave with the group's threads alive can end in an abort."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
