"""FSDP2 on a CPU.

accelerate turns FSDP on for accelerators only, and trains with DDP on a CPU without a word; so it
is told that these gloo processes are accelerators whose device is called "cpu".
"""

import os

from accelerate import DistributedType, PartialState


def shard_on_cpu() -> None:
    """To be called before anything of accelerate is made."""
    os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "ACCELERATE_USE_CPU": "false"}
    PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_GPU)
