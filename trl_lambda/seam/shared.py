"""Continuations behind the rows of a forward pass that TRL makes in any case.

    row      _ _ p₁ … p_P  y_1 … y_n _   | x₁ c₁ | x₂ c₂ | … _        _: padding
    sees     all before it               | the prefix without its last token, and its own chunk

TRL's columns stay where they are and see what they see without chunks, so TRL gets its own numbers
back, but for rounding. Chunks are those of `packed`.

Shape suffixes: C rows of one forward pass, L their columns, W columns of chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .packed import (
    CHUNK_TOKENS,
    MASK_ENTRIES,
    PAD,
    Request,
    backbone_of,
    chunk_fields,
    handed_in,
    mask_dtype,
    seen_mask,
)

# Rotary embeddings that are others for all tokens once one of them stands far out.
LENGTHS_MATTER = ("dynamic", "longrope")
# (input ids, attention mask, number of last columns) -> log-probabilities of those columns.
Score = Callable[[Tensor, Tensor, int], Tensor]


class Rows(NamedTuple):
    """The batch that TRL asks the old log-probabilities of.

    Attributes:
        ids_CL, mask_CL: prompts padded on the left, completions padded on the right.
        keep: columns of the completions.
        per_pass: rows of one forward pass.
    """

    ids_CL: Tensor
    mask_CL: Tensor
    keep: int
    per_pass: int


class Answered:
    """Continuations whose log-probabilities are known already."""

    def __init__(self, requests: Sequence[Request], log_probs: Sequence[Tensor]):
        self._known = {
            _key(request): (request.prefix, log_prob)
            for request, log_prob in zip(requests, log_probs, strict=True)
        }

    def of(self, request: Request) -> Tensor | None:
        """None where another prefix, another continuation, or nothing was asked."""
        prefix, log_prob = self._known.get(_key(request), (None, None))
        return log_prob if prefix == request.prefix else None


def _key(request: Request) -> tuple:
    return request.row, len(request.prefix), tuple(request.ids), request.scored


def sharing_fault(model: nn.Module) -> str | None:
    """Why chunks may not stand behind TRL's rows, in words; None where it looks as if they might.

    TRL's pass has the model as it trains, and no positions but those that the model counts.
    """
    noisy = next((said for module in model.modules() for said in _noise_of(module)), None)
    if noisy is not None:
        return f"{noisy} would be in the values"
    rotary = [module for module in backbone_of(model).modules() if hasattr(module, "inv_freq")]
    if not rotary:
        return "its positions are not rotary, and a padded row has others"
    for module in rotary:
        if getattr(module, "rope_type", None) in LENGTHS_MATTER:
            return f"its rotary embedding ({module.rope_type}) depends on the longest position"
    return None


def _noise_of(module: nn.Module) -> Iterator[str]:
    """Names what a module draws at random while it trains."""
    for name, value in vars(module).items():
        drawn = "drop" in name or "jitter" in name or (name == "p" and "Drop" in _kind(module))
        if drawn and isinstance(value, float) and value > 0:
            yield f"{_kind(module)}.{name}={value:g}"


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def passes_needed(rows: Rows, requests: Sequence[Request]) -> int | None:
    """Forward passes over the rows with their chunks; None where a row has too many of these."""
    tails = [0] * len(rows.ids_CL)
    for request in requests:
        tails[request.row] += 1 + len(request.ids)
    longest = max(tails, default=0)
    if not tails or longest > CHUNK_TOKENS:
        return None
    fitting = max(1, MASK_ENTRIES // (rows.ids_CL.shape[1] + longest) ** 2)
    return -(-len(tails) // min(rows.per_pass, fitting))


def score_shared(
    rows: Rows, requests: Sequence[Request], passes: int, score: Score, model: nn.Module
) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities of TRL's columns, `(C, keep)`, and of each request's last tokens.

    Args:
        requests: `row` is one of `rows`, and the prefix begins at its first token.
        passes: over how many the rows are spread.
    """
    C = len(rows.ids_CL)
    step = -(-C // passes)
    own, answers = [], [torch.zeros(0)] * len(requests)
    for begin in range(0, C, step):
        part = slice(begin, min(begin + step, C))
        numbers = [n for n, request in enumerate(requests) if part.start <= request.row < part.stop]
        moved = [requests[n]._replace(row=requests[n].row - begin) for n in numbers]
        ids, mask, inputs, where = _with_chunks(rows.ids_CL[part], rows.mask_CL[part], moved, model)
        width = rows.keep + ids.shape[1] - rows.ids_CL.shape[1]
        with handed_in(backbone_of(model), inputs):
            logps = score(ids, mask, width)
        own.append(logps[:, : rows.keep])
        for number, (row, first, end) in zip(numbers, where, strict=True):
            answers[number] = logps[row, rows.keep + first : rows.keep + end].float()
    return torch.cat(own), answers


def _with_chunks(
    ids_CL: Tensor, mask_CL: Tensor, requests: list[Request], model: nn.Module
) -> tuple[Tensor, Tensor, dict[str, Tensor], list[tuple[int, int, int]]]:
    """Token ids and mask with W columns more, what the backbone gets, and for each request its row,
    first and last + 1 of the columns W."""
    if not requests:
        return ids_CL, mask_CL, {}, []
    C, L = ids_CL.shape
    by_row: list[list[Request]] = [[] for _ in range(C)]
    ends, where = [0] * C, []
    for request in requests:
        by_row[request.row].append(request)
        ends[request.row] += 1 + len(request.ids)
        end = ends[request.row]
        where.append((request.row, end - request.scored, end))
    lines = zip(by_row, mask_CL.argmax(1).tolist(), strict=True)
    ids_CW, position_CW, chunk_CW, visible_CW, scored_CW = (
        torch.tensor(rows, device=ids_CL.device)
        for rows in zip(*(_filled(own, first, max(ends)) for own, first in lines), strict=True)
    )
    # Without other word a model counts a token's columns, padding included.
    column_CL = torch.arange(L, device=ids_CL.device).expand(C, L)
    position = torch.cat([column_CL, position_CW], 1)
    chunk = torch.cat([mask_CL.long() - 1, chunk_CW], 1)
    visible = torch.cat([torch.zeros_like(column_CL), visible_CW], 1)
    seen = seen_mask(position, chunk, visible, mask_dtype(model))
    ids = torch.cat([ids_CL, ids_CW.to(ids_CL)], 1)
    mask = torch.cat([mask_CL, scored_CW.to(mask_CL)], 1)
    return ids, mask, {"attention_mask": seen, "position_ids": position}, where


def _filled(requests: list[Request], first: int, width: int) -> list[list[int]]:
    """The chunks of a row whose text begins at column `first`, padded on the right."""
    padding = (PAD, 0, -1, 0, 0)
    fields = chunk_fields(requests, first)
    return [own + [pad] * (width - len(own)) for own, pad in zip(fields, padding, strict=True)]


def trial_rows(model: nn.Module, device: torch.device) -> tuple[Rows, list[Request]]:
    """Two rows of random tokens, one padded on the right and one on the left, as prompts of at most
    8 and completions of at most 16 tokens, and three continuations of each."""
    size = int(model.config.get_text_config().vocab_size)
    ids = torch.randint(size, (2, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    requests = []
    for row, (left, right) in enumerate(((0, 3), (5, 0))):
        mask[row, :left], mask[row, 24 - right :] = 0, 0
        tokens = ids[row, left : 24 - right].tolist()
        for end in (6, 12, 17):
            requests.append(Request(row, tokens[:end], tokens[end - 6 : end - 3], 3))
    return Rows(ids.to(device), mask.to(device), 16, 2), requests
