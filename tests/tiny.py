"""A tiny model, tokenizer, data set and scripted rollouts, all made in memory."""

from __future__ import annotations

import atexit
import functools
import math
import shutil
import tempfile

import torch
from datasets import Dataset
from safetensors.torch import save_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)
from trl import GRPOConfig, GRPOTrainer

from trl_lambda import LambdaGRPOConfig, LambdaGRPOTrainer
from trl_lambda.rule import CreditRule

PAD, EOS = 0, 1
CHARACTERS = "0123456789+-=# abcdefghijklmnopqrstuvwxyz"
TIMINGS = ("step_time", "runtime", "per_second", "profiling")
TRL_ONLY = {"trace_style": None, "process_set_weighting": None, "advantage_floor": None}
NEUTRAL = {"method": "grpo", **TRL_ONLY}
DEFAULT = {**TRL_ONLY, "loss_type": None, "scale_rewards": None}
# The default of the package's earlier versions, on TRL's loss.
TRACE_AND_FLOOR = {**DEFAULT, "trace_style": "recent", "advantage_floor": -0.1}
# What tests get if they say nothing, whatever the package's defaults are: a trace and process sets.
TRACED = {
    "trace_style": "recent",
    "process_set_weighting": True,
    "advantage_floor": -math.inf,
    "loss_type": "dr_grpo",
    "scale_rewards": "none",
}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character."""
    vocabulary = {"<pad>": PAD, "<eos>": EOS, "<unk>": 2}
    vocabulary |= {character: 3 + i for i, character in enumerate(CHARACTERS)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )


def model(seed: int = 0, **overrides) -> Qwen2ForCausalLM:
    """Loaded from a folder, because TRL loads the reference model from where the policy came."""
    return Qwen2ForCausalLM.from_pretrained(
        _saved_model(seed, tuple(overrides.items())), dtype=torch.float32
    )


@functools.cache
def _saved_model(seed: int, overrides: tuple) -> str:
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 3 + len(CHARACTERS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "bos_token_id": None,
    }
    folder = tempfile.mkdtemp(prefix="trl_lambda_tiny_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = Qwen2ForCausalLM(Qwen2Config(**(settings | dict(overrides))))
    made.config.architectures = [type(made).__name__]
    made.config.save_pretrained(folder)
    # By hand: under several processes save_pretrained writes on one of them only.
    save_model(made, f"{folder}/model.safetensors", metadata={"format": "pt"})
    return folder


def mixture_of_experts(folder, *, layers: int, **overrides):
    """Saves a tiny mixture of experts; `folder`."""
    torch.manual_seed(0)
    config = Qwen2MoeConfig(
        vocab_size=3 + len(CHARACTERS),
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts=4,
        num_experts_per_tok=2,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
        **overrides,
    )
    Qwen2MoeForCausalLM(config).save_pretrained(folder)
    return folder


def prompts(count: int = 8) -> Dataset:
    return Dataset.from_list([{"prompt": f"{i % 10}+1=", "gold": str(i)} for i in range(count)])


def letter_reward(completions, **columns) -> list[float]:
    """Share of the letter a: varied, cheap, and never equal for long."""
    return [text.count("a") / max(len(text), 1) + 0.01 * len(text) for text in completions]


def rule(**changes) -> CreditRule:
    """With a trace and process sets, where nothing is said of them."""
    return CreditRule(**({"trace_style": "recent", "process_set_weighting": True} | changes))


def config(cls: type[GRPOConfig], output_dir, **overrides) -> GRPOConfig:
    settings = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "use_cpu": True,
        "seed": 7,
        "gradient_checkpointing": False,
    }
    if issubclass(cls, LambdaGRPOConfig):
        settings |= TRACED
    return cls(**(settings | overrides))


def trainer(output_dir, cls=LambdaGRPOTrainer, *, reward_funcs=letter_reward, settings=None, **kw):
    """A trainer on the tiny model; `settings` override the config, `kw` go to the trainer."""
    settings = dict(settings or {})
    config_class = kw.pop("config_class", None) or (
        GRPOConfig if cls is GRPOTrainer else LambdaGRPOConfig
    )
    return cls(
        kw.pop("model", None) or model(),
        reward_funcs,
        config(config_class, output_dir, **settings),
        train_dataset=kw.pop("train_dataset", None) or prompts(),
        processing_class=kw.pop("processing_class", None) or tokenizer(),
        **kw,
    )


def scripted(rows: list[list[int]], **extra):
    """A rollout_func that hands out these completions in turn, whatever the prompts."""
    handed_out = 0

    def rollout(prompt_texts, trainer):
        nonlocal handed_out
        encode = trainer.processing_class
        chosen = [rows[(handed_out + i) % len(rows)] for i in range(len(prompt_texts))]
        more = {
            name: [values[(handed_out + i) % len(rows)] for i in range(len(prompt_texts))]
            for name, values in extra.items()
        }
        handed_out += len(prompt_texts)
        return {
            "prompt_ids": [encode(text)["input_ids"] for text in prompt_texts],
            "completion_ids": chosen,
            "logprobs": None,
            **more,
        }

    return rollout


def capture_inputs(trainer) -> list[dict]:
    """Copies of what TRL's loss gets, in order."""
    seen: list[dict] = []
    inner = trainer.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        seen.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()})
        return inner(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    return seen


def parameters(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def _logged(trainer):
    return [
        {k: v for k, v in entry.items() if not any(word in k for word in TIMINGS)}
        for entry in trainer.state.log_history
    ]


def assert_same_run(ours, stock):
    """Bit for bit: parameters, and all that stock logged but for times."""
    assert torch.equal(parameters(ours), parameters(stock))
    for own, theirs in zip(_logged(ours), _logged(stock), strict=True):
        assert {k: own[k] for k in theirs} == theirs
