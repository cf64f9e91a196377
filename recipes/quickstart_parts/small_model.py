"""A tokenizer of single characters and a Qwen2 small enough to learn on a CPU."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PAD, EOS = "<pad>", "<eos>"


def character_tokenizer(characters: str) -> PreTrainedTokenizerFast:
    """One token per character; padded on the left, as generation needs."""
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, *characters])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=EOS, padding_side="left"
    )


def small_qwen2(
    tokenizer: PreTrainedTokenizerFast, *, hidden_size: int, layers: int, positions: int
) -> Qwen2ForCausalLM:
    """A Qwen2 of random weights with four heads; seed torch before the call."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=positions,
            # For sequences of dozens of tokens: with Qwen2's 1e6 the heads hardly tell so few
            # positions apart, and learning to copy takes several times as long.
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
