"""Continuations of one completion behind it, in one forward pass.

A packed row is the completion up to its last prefix, and behind it one chunk for each continuation:

    row      p₁ … p_P  y_1 … y_b   | x₁ c₁ | x₂ c₂ | …         x: the prefix's last token once more
    sees     all before it         | the prefix without its last token, and its own chunk

A chunk's positions go on where its prefix ends, so it is what the model would see of the prefix and
the continuation alone. The repeated token predicts the first token of the continuation.

Shape suffixes: C rows of one forward pass, L their positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PAD = 0  # any id of the vocabulary: the mask hides it
# Attention that takes any mask; flash attention takes causal ones alone, flex blocks.
MASKED_ATTENTION = ("sdpa", "eager")
# A row's chunks are split over several rows beyond so many tokens, and a pass is cut to so many
# entries of its (C, L, L) mask: 2²⁸ are half a gigabyte in 16 bits.
CHUNK_TOKENS = 4096
MASK_ENTRIES = 2**28


class Request(NamedTuple):
    """A continuation to be scored.

    Attributes:
        row: requests of one row have prefixes of one text.
        prefix: token ids, prompt included; at least one.
        ids: token ids that follow.
        scored: how many of the last of them are asked for.
    """

    row: int
    prefix: list[int]
    ids: list[int]
    scored: int


def left_padded(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, two columns at least: a head that scores the next token needs
    one before it. One row of padding, all of it seen, if there is none."""
    rows = rows or [[PAD, PAD]]
    width = max(2, *map(len, rows))
    ids = [[PAD] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def packing_fault(model: nn.Module) -> str | None:
    """Why a model takes no four-dimensional mask, in words; None where it looks as if it did."""
    peft = getattr(model, "peft_config", None) or {}
    if any(getattr(one, "is_prompt_learning", False) for one in peft.values()):
        return "its adapter puts tokens of its own before the prompt"
    base = backbone_of(model)
    config = model.config
    text = config.get_text_config()
    attention = getattr(text, "_attn_implementation", None)
    if text is not config:
        return f"{type(config).__name__} is of a model of more than text"
    if attention not in MASKED_ATTENTION:
        return f"attn_implementation={attention!r} takes no such mask"
    if not takes_positions(model):
        return f"{type(base).__name__} takes no position_ids"
    if getattr(base, "_is_stateful", False) or getattr(config, "is_encoder_decoder", False):
        return f"{type(base).__name__} has a state beside attention"
    return _windowed(text)


def _windowed(config: Any) -> str | None:
    """Layers whose attention is not the mask's alone."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"}:
        return f"it has layers of {', '.join(sorted(kinds - {'full_attention'}))}"
    if getattr(config, "alibi", False):
        return "its attention counts distances by itself (alibi)"
    for name in ("sliding_window", "attention_chunk_size", "window_size"):
        used = getattr(config, "use_sliding_window", True) or name != "sliding_window"
        # A list of layers says what each does: the window is then idle.
        if not kinds and used and getattr(config, name, None):
            return f"its attention has a window ({name}={getattr(config, name)})"
    return None


def backbone_of(model: nn.Module) -> nn.Module:
    """The module below the head: all that TRL's versions call in the end goes through it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(inner, "base_model", inner)


def takes_positions(model: nn.Module) -> bool:
    """Whether plain position ids mean something: positions of images have three numbers."""
    config = getattr(model, "config", None)
    if config is None or config.get_text_config() is not config:
        return False
    return "position_ids" in inspect.signature(backbone_of(model).forward).parameters


@contextmanager
def handed_in(backbone: nn.Module, inputs: dict[str, Tensor]) -> Iterator[None]:
    """While it lasts the backbone gets these keyword arguments in the place of its caller's."""
    if not inputs:
        yield
        return

    def replaced(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, **inputs}

    handle = backbone.register_forward_pre_hook(replaced, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def trial_requests(model: nn.Module) -> list[Request]:
    """Prefixes of 1 to 9 random tokens with continuations of 3, of two rows."""
    size = int(model.config.get_text_config().vocab_size)
    drawn = torch.randint(size, (2, 24), generator=torch.Generator().manual_seed(0)).tolist()
    return [
        Request(row, tokens[:start], tokens[12 + start : 15 + start], 3)
        for row, tokens in enumerate(drawn)
        for start in (1, 4 + row, 8 + row)
    ]


class _Row(NamedTuple):
    """A packed row: a text, and (number of the request, request) of each chunk."""

    base: list[int]
    chunks: list[tuple[int, Request]]

    @property
    def length(self) -> int:
        return len(self.base) + self.tail

    @property
    def tail(self) -> int:
        return sum(1 + len(request.ids) for _, request in self.chunks)


def packed_passes(
    requests: list[Request], rows: int, model: nn.Module, device: torch.device
) -> Iterator[tuple[Any, ...]]:
    """Passes of at most `rows` packed rows: the fields of `continuations._Pass`."""
    dtype = mask_dtype(model)
    packed = sorted(_rows(requests), key=lambda row: row.length)
    while packed:
        width = packed[-1].length
        count = min(rows, max(1, MASK_ENTRIES // width**2), len(packed))
        part = [packed.pop() for _ in range(count)]
        yield _pass(part, dtype, device)


def mask_dtype(model: nn.Module) -> torch.dtype:
    """sdpa takes booleans, whatever it computes in; eager attention adds numbers."""
    if getattr(model.config.get_text_config(), "_attn_implementation", None) == "sdpa":
        return torch.bool
    floating = (one.dtype for one in model.parameters() if one.is_floating_point())
    return next(floating, torch.float32)


def _rows(requests: list[Request]) -> list[_Row]:
    """Chunks of one text together, as many as a row may hold."""
    by_row: dict[int, list[tuple[int, Request]]] = {}
    for number, request in enumerate(requests):
        by_row.setdefault(request.row, []).append((number, request))
    rows = []
    for chunks in by_row.values():
        row = _Row([], [])
        for chunk in chunks:
            if row.chunks and row.tail + 1 + len(chunk[1].ids) > CHUNK_TOKENS:
                rows.append(row)
                row = _Row([], [])
            row.chunks.append(chunk)
        rows.append(row)
    return [_Row(max((r.prefix for _, r in row.chunks), key=len), row.chunks) for row in rows]


def _pass(part: list[_Row], dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
    width = max(row.length for row in part)
    lines = [_line(row, width) for row in part]
    ids, position, chunk, visible, scored = (
        torch.tensor(column, device=device) for column in zip(*lines, strict=True)
    )
    inputs = {
        "attention_mask": seen_mask(position, chunk, visible, dtype),
        "position_ids": position,
    }
    tail = max(row.tail for row in part)
    where = []
    for number, row in enumerate(part):
        end = tail - row.tail
        for request_number, request in row.chunks:
            end += 1 + len(request.ids)
            where.append((request_number, number, end - request.scored, end))
    return ids, scored, inputs, tail, where


def _line(row: _Row, width: int) -> tuple[list[int], ...]:
    """Token ids, positions, chunk (−1 padding, 0 the text), visible tokens of the text, and 1 where
    the log-probability is asked for."""
    n, pad = len(row.base), width - row.length
    ids, position = [PAD] * pad + row.base, [0] * pad + list(range(n))
    chunk, visible, scored = [-1] * pad + [0] * n, [0] * (pad + n), [0] * (pad + n)
    text = (ids, position, chunk, visible, scored)
    chunks = chunk_fields([request for _, request in row.chunks])
    return tuple(own + behind for own, behind in zip(text, chunks, strict=True))


def chunk_fields(requests: list[Request], first: int = 0) -> tuple[list[int], ...]:
    """For the chunks behind a text what `_line` has for a row.

    Args:
        first: position of the text's first token.
    """
    fields: tuple[list[int], ...] = ([], [], [], [], [])
    for number, request in enumerate(requests, start=1):
        seen, length = first + len(request.prefix) - 1, 1 + len(request.ids)
        chunk = (
            [request.prefix[-1], *request.ids],
            range(seen, seen + length),
            [number] * length,
            [seen] * length,
            [0] * (length - request.scored) + [1] * request.scored,
        )
        for field, own in zip(fields, chunk, strict=True):
            field.extend(own)
    return fields


def seen_mask(
    position_CL: Tensor, chunk_CL: Tensor, visible_CL: Tensor, dtype: torch.dtype
) -> Tensor:
    """`(C, 1, L, L)`: 0 where a token sees another, the smallest number where it does not; True
    and False for booleans.

    A padded position sees itself: where a row sees nothing attention is NaN.
    """
    L = position_CL.shape[1]
    order_L = torch.arange(L, device=position_CL.device)
    same_CLL = chunk_CL[:, :, None] == chunk_CL[:, None, :]
    own_CLL = same_CLL & (order_L[None, :, None] >= order_L[None, None, :])
    in_text_CLL = (chunk_CL == 0)[:, None, :]
    text_CLL = in_text_CLL & (position_CL[:, None, :] < visible_CL[:, :, None])
    seen_CLL = own_CLL | text_CLL
    if dtype == torch.bool:
        return seen_CLL[:, None]
    mask_CLL = torch.zeros(seen_CLL.shape, dtype=dtype, device=position_CL.device)
    return mask_CLL.masked_fill_(~seen_CLL, torch.finfo(dtype).min)[:, None]
