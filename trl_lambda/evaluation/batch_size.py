"""How many completions to sample at a time, where nobody says."""

import os
from pathlib import Path
from typing import Any

import torch

MOST_ON_GPU = 256
MOST_A_CORE = 16  # where the throughput of small models on a CPU levels off
FALLBACK = 16  # for models whose cache has another shape
LOGIT_BYTES = 48  # a token of the vocabulary: its logit, its cumulative probability and copies
CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def suitable_batch_size(model: Any, tokens: int) -> int:
    """The largest power of two that fits the memory and still makes sampling faster.

    It follows from the model and the machine, not from what happens to be free, so that a run that
    is begun again finds the same.

    Args:
        model: A causal language model.
        tokens: The longest prompt and its completion.
    """
    device = model.device
    on_gpu = device.type == "cuda"
    most = MOST_ON_GPU if on_gpu else min(MOST_ON_GPU, MOST_A_CORE * available_cores())
    row = row_bytes(model, tokens)
    if row is None:
        return min(FALLBACK, most)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    memory = (
        0.85 * torch.cuda.get_device_properties(device).total_memory - weights
        if on_gpu
        else 0.5 * cpu_memory() - weights
    )
    fitting = max(1, min(most, int(memory / row)))
    return 1 << (fitting.bit_length() - 1)


def row_bytes(model: Any, tokens: int) -> int | None:
    """Memory that a completion takes while it is sampled: its keys and values, and its logits.

    `None` where the config does not say how large they are.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    layers = getattr(config, "num_hidden_layers", None)
    hidden = getattr(config, "hidden_size", None)
    if not (isinstance(heads, int) and isinstance(layers, int) and isinstance(hidden, int)):
        return None
    of_keys = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or hidden // heads
    cache = 2 * layers * of_keys * width * model.dtype.itemsize * tokens
    return cache + LOGIT_BYTES * config.vocab_size


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_memory() -> int:
    """The machine's memory in bytes, or the container's limit if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path(path).read_text().strip() for path in CGROUP_LIMITS if Path(path).is_file()]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])
