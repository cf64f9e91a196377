"""The tiny model, how it samples, and how likely it makes a text.

`transformers`' own generate() spends milliseconds a token on models that need a tenth of one, so
the sampler here is its own: the same weights, prompts of one length, a cache of keys and values. A
test holds its logits against the model's.
"""

from __future__ import annotations

import torch
from quickstart_parts.small_model import character_tokenizer, small_qwen2
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from .tasks import Task


def tokenizer(task: Task) -> PreTrainedTokenizerFast:
    return character_tokenizer(task.characters)


def encode(encoder: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """(B, T): ids of texts of one length."""
    return torch.tensor(encoder(texts, add_special_tokens=False)["input_ids"])


def new_model(encoder: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 of some 50 thousand random weights; seed torch before the call."""
    return small_qwen2(encoder, hidden_size=48, layers=2, positions=320)


def gold_probability(model, encoder, prompts: list[str], golds: list[str]) -> Tensor:
    """(B,): probability that a sample from each prompt is the gold, to its end."""
    prompts_BP, golds_BT = encode(encoder, prompts), encode(encoder, golds)
    end_B1 = torch.full((len(prompts), 1), encoder.eos_token_id)
    ids = torch.cat([prompts_BP, golds_BT, end_B1], 1)
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits[:, prompts_BP.shape[1] - 1 :].log_softmax(-1)
    targets = ids[:, prompts_BP.shape[1] :, None]
    return logits.gather(-1, targets).sum((1, 2)).exp()


@torch.no_grad()
def sample(model, prompts_BP: Tensor, *, tokens: int, end: int) -> list[list[int]]:
    """Completions at temperature 1 from the whole distribution, with their end.

    Args:
        prompts_BP: ids of prompts of one length.
        tokens: at most so many.
        end: the id that ends a completion.
    """
    decoder = Decoder(model, len(prompts_BP), prompts_BP.shape[1] + tokens)
    logits = decoder(prompts_BP)
    columns, running_B = [], torch.ones(len(prompts_BP), dtype=torch.bool)
    while len(columns) < tokens and running_B.any():
        next_B = torch.multinomial(logits.softmax(-1), 1)
        columns.append(next_B)
        running_B &= next_B[:, 0] != end
        if len(columns) < tokens:
            logits = decoder(next_B)
    rows = torch.cat(columns, 1).tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


class Decoder:
    """A Qwen2 without dropout, token by token: call it with new ids, get the next logits.

    B rows, T new positions, H heads, D the size of a head.
    """

    def __init__(self, model: Qwen2ForCausalLM, rows: int, length: int):
        self.model = model
        config = model.config
        self.heads = config.num_attention_heads
        if config.num_key_value_heads != self.heads:
            raise ValueError("this sampler knows no grouped queries")
        size = config.hidden_size // self.heads
        self.cache = torch.zeros(config.num_hidden_layers, 2, rows, self.heads, length, size)
        self.seen = 0
        positions = torch.arange(length)[None]
        cos, sin = model.model.rotary_emb(self.cache, positions)
        self.cos_TD, self.sin_TD = cos[0], sin[0]

    @torch.no_grad()
    def __call__(self, ids_BT: Tensor) -> Tensor:
        """(B, V): logits of what follows the last of `ids_BT`."""
        hidden = self.model.model.embed_tokens(ids_BT)
        for layer, cache in zip(self.model.model.layers, self.cache, strict=True):
            hidden = hidden + self._attention(
                layer.self_attn, norm(layer.input_layernorm, hidden), cache
            )
            mlp, inner = layer.mlp, norm(layer.post_attention_layernorm, hidden)
            gated = silu(linear(inner, mlp.gate_proj.weight)) * linear(inner, mlp.up_proj.weight)
            hidden = hidden + linear(gated, mlp.down_proj.weight)
        self.seen += ids_BT.shape[1]
        return linear(norm(self.model.model.norm, hidden[:, -1]), self.model.lm_head.weight)

    def _attention(self, attention, hidden: Tensor, cache: Tensor) -> Tensor:
        start, end = self.seen, self.seen + hidden.shape[1]
        query, key, value = (
            linear(hidden, p.weight, p.bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        cache[0][:, :, start:end] = self._rotate(key, start, end)
        cache[1][:, :, start:end] = value
        mixed = scaled_dot_product_attention(
            self._rotate(query, start, end),
            cache[0][:, :, :end],
            cache[1][:, :, :end],
            is_causal=start == 0 and end > 1,
        )
        return linear(mixed.transpose(1, 2).flatten(2), attention.o_proj.weight)

    def _rotate(self, x: Tensor, start: int, end: int) -> Tensor:
        first, second = x.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
        return x * self.cos_TD[start:end] + turned * self.sin_TD[start:end]


def norm(layer, x: Tensor) -> Tensor:
    return layer.weight * (x * (x.pow(2).mean(-1, keepdim=True) + layer.variance_epsilon).rsqrt())
