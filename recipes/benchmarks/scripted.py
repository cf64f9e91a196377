"""Trainers on scripted completions, for the scripts that measure: sampling is noise there."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, PrinterCallback, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 1000
FIRST_TOKEN = 3  # behind padding, EOS and unknown
ROW = {"prompt": "3", "answer": "7 8 9 10"}  # of the data set

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def branching_completions(groups: int, size: int, length: int) -> list[list[int]]:
    """Random tokens; the i-th member of a group leaves the group's stem after 4·i tokens."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        return torch.randint(FIRST_TOKEN, VOCABULARY, (count,), generator=generator).tolist()

    stems = [draw(length) for _ in range(groups)]
    return [stem[: 4 * i] + draw(length - 4 * i) for stem in stems for i in range(size)]


def trainer(
    trainer_class,
    config,
    completions: list[list[int]],
    *,
    hidden_size: int,
    num_hidden_layers: int,
    model_folder: Path,
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
        _model(model_folder, hidden_size, num_hidden_layers),
        by_row,
        config,
        train_dataset=Dataset.from_list([ROW] * 64),
        processing_class=_tokenizer(),
        rollout_func=rollout,
        **options,
    )
    made.remove_callback(PrinterCallback)  # a dictionary of thirty numbers for every step
    return made


def _model(folder: Path, hidden_size: int, num_hidden_layers: int) -> Qwen2ForCausalLM:
    """Saved once, so that every trainer, and its reference model, starts from the same weights."""
    if not folder.exists():
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=hidden_size // 64,
            num_key_value_heads=hidden_size // 64,
            max_position_embeddings=8192,
        )
        Qwen2ForCausalLM(config).save_pretrained(folder)
    return Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {str(i): i for i in range(FIRST_TOKEN, VOCABULARY)}
    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | words
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
