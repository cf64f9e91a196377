"""The tiny model, how it samples, and how likely it makes a text.

`transformers`' own generate() spends milliseconds a token on models that need a tenth of one, so
the sampler here is its own: the same weights, prompts padded on the left, a cache of keys and
values. A test holds its logits against the model's. `FastPolicy` puts it in the place of
generate(), so that trainers generate as they always do, in waves of forks as well.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from quickstart_parts.small_model import character_tokenizer, small_qwen2
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
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


def sample(model, prompts_BP: Tensor, *, tokens: int, end: int) -> list[list[int]]:
    """Completions at temperature 1 from the whole distribution, with their end.

    Args:
        prompts_BP: ids of prompts of one length.
        tokens: at most so many.
        end: the id that ends a completion.
    """
    rows = sampled_tokens(model, prompts_BP, tokens=tokens, end=end).tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


@torch.no_grad()
def sampled_tokens(
    model, prompts_BP: Tensor, *, tokens: int, end: int, mask_BP: Tensor | None = None
) -> Tensor:
    """(B, ≤ tokens): sampled until the last row has ended; behind an end stands anything.

    Args:
        mask_BP: 0 where a prompt is padded, which is on its left; None for prompts of one length.
    """
    decoder = Decoder(model, len(prompts_BP), prompts_BP.shape[1] + tokens, mask_BP)
    logits = decoder(prompts_BP)
    columns, running_B = [], torch.ones(len(prompts_BP), dtype=torch.bool)
    while len(columns) < tokens and running_B.any():
        next_B = torch.multinomial(logits.softmax(-1), 1)
        columns.append(next_B)
        running_B &= next_B[:, 0] != end
        if len(columns) < tokens:
            logits = decoder(next_B)
    return torch.cat(columns, 1)


class FastPolicy(Qwen2ForCausalLM):
    """A Qwen2 whose generate() is the sampler above, for trainers that sample the policy as it is.

    Raises:
        ValueError: a way to sample that the sampler does not know; it changes no distribution.
    """

    def generate(self, input_ids: Tensor, attention_mask: Tensor, generation_config) -> Tensor:
        asked = generation_config
        plain = {"do_sample": (True,), "temperature": (None, 1.0), "top_p": (None, 1.0)}
        plain |= {"top_k": (None, 0), "min_p": (None, 0.0), "repetition_penalty": (None, 1.0)}
        for name, values in plain.items():
            if getattr(asked, name) not in values:
                raise ValueError(f"this sampler knows no {name}={getattr(asked, name)!r}")
        new = sampled_tokens(
            self,
            input_ids,
            tokens=asked.max_new_tokens,
            end=self.config.eos_token_id,
            mask_BP=attention_mask,
        )
        return torch.cat([input_ids, new], 1)


class _Layer(NamedTuple):
    """Weights of a layer, those of one input as one matrix: tiny models wait for calls, not for
    multiplications.
    """

    before: Module
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    between: Module
    gate_up: Tensor
    down: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, layer) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        return cls(
            before=layer.input_layernorm,
            qkv=torch.cat([p.weight for p in projections]),
            qkv_bias=torch.cat([p.bias for p in projections]),
            out=attention.o_proj.weight,
            between=layer.post_attention_layernorm,
            gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
            down=mlp.down_proj.weight,
        )


class Decoder:
    """A Qwen2 without dropout, token by token: call it with new ids, get the next logits.

    B rows, T new positions, S positions so far, H heads, D the size of a head.

    Args:
        rows, length: of the cache: B, and prompt and completion together.
        mask_BP: of the prompts that the first call gets: 0 where one is padded, which is on its
            left; None for prompts of one length.
    """

    def __init__(
        self, model: Qwen2ForCausalLM, rows: int, length: int, mask_BP: Tensor | None = None
    ):
        self.model = model
        config = model.config
        self.heads = config.num_attention_heads
        if config.num_key_value_heads != self.heads:
            raise ValueError("this sampler knows no grouped queries")
        size = config.hidden_size // self.heads
        self.layers = [_Layer.of(layer) for layer in model.model.layers]
        self.cache = torch.zeros(config.num_hidden_layers, 2, rows, self.heads, length, size)
        self.seen = 0
        positions = torch.arange(length)[None]
        cos, sin = model.model.rotary_emb(self.cache, positions)
        # (1 or B, 1, length, D): where prompts are padded, rows count positions from their own.
        self.cos, self.sin = cos[:, None], sin[:, None]
        self.padded_B: Tensor | None = None
        if mask_BP is not None and not bool(mask_BP.all()):
            self.padded_B = mask_BP.shape[1] - mask_BP.sum(1)
            own_BL = (positions - self.padded_B[:, None]).clamp(min=0)
            self.cos, self.sin = cos[0][own_BL][:, None], sin[0][own_BL][:, None]

    @torch.no_grad()
    def __call__(self, ids_BT: Tensor) -> Tensor:
        """(B, V): logits of what follows the last of `ids_BT`."""
        hidden = self.model.model.embed_tokens(ids_BT)
        start, end = self.seen, self.seen + ids_BT.shape[1]
        visible = self._visible(start, end)
        for layer, cache in zip(self.layers, self.cache, strict=True):
            mixed = self._attention(layer, norm(layer.before, hidden), cache, visible)
            hidden = hidden + linear(mixed, layer.out)
            gate, up = linear(norm(layer.between, hidden), layer.gate_up).chunk(2, -1)
            hidden = hidden + linear(silu(gate) * up, layer.down)
        self.seen = end
        return linear(norm(self.model.model.norm, hidden[:, -1]), self.model.lm_head.weight)

    def _attention(
        self, layer: _Layer, hidden: Tensor, cache: Tensor, visible: Tensor | None
    ) -> Tensor:
        start, end = self.seen, self.seen + hidden.shape[1]
        # (3, B, H, T, D): one multiplication for the three, one rotation for two of them.
        projected = linear(hidden, layer.qkv, layer.qkv_bias)
        projected = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self._rotate(projected[:2], start, end)
        cache[0, :, :, start:end] = key
        cache[1, :, :, start:end] = projected[2]
        mixed = scaled_dot_product_attention(
            query,
            cache[0, :, :, :end],
            cache[1, :, :, :end],
            attn_mask=visible,
            is_causal=visible is None and start == 0 and end > 1,
        )
        return mixed.transpose(1, 2).flatten(2)

    def _visible(self, start: int, end: int) -> Tensor | None:
        """(B, 1, T, S): which positions a new one sees; None where none is padded."""
        if self.padded_B is None:
            return None
        new_T1, seen_S = torch.arange(start, end)[:, None], torch.arange(end)
        visible_BTS = (seen_S <= new_T1) & (seen_S >= self.padded_B[:, None, None])
        # Padding sees itself: a row of nothing would give NaN. Nobody sees what comes of it.
        return (visible_BTS | (seen_S == new_T1))[:, None]

    def _rotate(self, x: Tensor, start: int, end: int) -> Tensor:
        first, second = x.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
        return x * self.cos[:, :, start:end] + turned * self.sin[:, :, start:end]


def norm(layer, x: Tensor) -> Tensor:
    return rms_norm(x, layer.weight.shape, layer.weight, layer.variance_epsilon)
