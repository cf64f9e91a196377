"""Trainers on scripted completions, for the scripts that measure: sampling is noise there."""

from __future__ import annotations

from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, PrinterCallback, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 1000
FIRST_TOKEN = 3  # behind padding, EOS and unknown
ROW = {"prompt": "3", "answer": "7 8 9 10"}  # of the data set


def shortest(size: int) -> int:
    """Tokens that `branching_completions` needs for groups of this size."""
    return 4 * (size - 1)


def branching_completions(groups: int, size: int, length: int) -> list[list[int]]:
    """Random tokens; the i-th member of a group leaves the group's stem after 4·i tokens."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        return torch.randint(FIRST_TOKEN, VOCABULARY, (count,), generator=generator).tolist()

    stems = [draw(length) for _ in range(groups)]
    return [stem[: 4 * i] + draw(length - 4 * i) for stem in stems for i in range(size)]


def qwen2(
    *,
    hidden_size: int,
    layers: int,
    heads: int | None = None,
    kv_heads: int | None = None,
    mlp: int | None = None,
    vocabulary: int = VOCABULARY,
    tied: bool = False,
) -> Qwen2Config:
    """Sizes of a Qwen2; unless said otherwise heads are 64 wide, the MLP twice the hidden size.

    Args:
        kv_heads: heads of keys and values; None: as many as `heads`.
        vocabulary: at least 1000, from which completions are drawn.
        tied: whether the embedding is the output layer, too.

    Raises:
        ValueError: heads that do not divide the hidden size into even parts, a small vocabulary.
    """
    heads = heads or max(1, hidden_size // 64)
    if hidden_size % (2 * heads):
        raise ValueError(
            f"hidden_size {hidden_size} with {heads} heads: expected a multiple of {2 * heads}."
        )
    if vocabulary < VOCABULARY:
        raise ValueError(f"vocabulary {vocabulary}: expected {VOCABULARY} tokens or more.")
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden_size,
        intermediate_size=mlp or 2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        max_position_embeddings=8192,
        tie_word_embeddings=tied,
    )


def trainer(
    trainer_class,
    config,
    completions: list[list[int]],
    *,
    model_config: Qwen2Config,
    model_folder: Path,
    dtype: torch.dtype = torch.float32,
    **options,
):
    """A trainer on a fresh Qwen2; the rewards are 0, 1, 2, 0, 1, 2, …, by the row of the batch."""

    def rollout(prompts, trainer):
        count = len(prompts)
        return {
            "prompt_ids": [[FIRST_TOKEN]] * count,
            "completion_ids": completions[:count],
            "logprobs": None,
        }

    def by_row(completions, **columns):
        return [float(i % 3) for i in range(len(completions))]

    made = trainer_class(
        _model(model_folder, model_config, dtype),
        by_row,
        config,
        train_dataset=Dataset.from_list([ROW] * 64),
        processing_class=_tokenizer(),
        rollout_func=rollout,
        **options,
    )
    made.remove_callback(PrinterCallback)  # a dictionary of thirty numbers for every step
    return made


def _model(folder: Path, config: Qwen2Config, dtype: torch.dtype) -> Qwen2ForCausalLM:
    """Saved once, so that every trainer, and its reference model, starts from the same weights."""
    if not folder.exists():
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).to(dtype).save_pretrained(folder)
    return Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {str(i): i for i in range(FIRST_TOKEN, VOCABULARY)}
    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | words
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
