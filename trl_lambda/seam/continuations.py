"""Log-probabilities of given continuations: prefixes of completions, cut and padded for one pass.

Shape suffixes: C continuations of one forward pass, L their positions, prompt and prefix included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..scored_batch import ScoredBatch
from ..td_errors import Continuation
from .user_functions import agree_on_largest

PAD = 0  # any id of the vocabulary: the attention mask hides it


def continuation_log_probs(
    score: Callable[[Tensor, Tensor, int], Tensor],
    batch: ScoredBatch,
    continuations: Sequence[Continuation],
    *,
    rows_per_pass: int,
) -> list[Tensor]:
    """See `CreditBatch.log_probs`.

    All processes make the same number of passes: with sharded weights each pass is a collective.

    Args:
        score: (input ids, attention mask, positions to score) -> log-probabilities of the last
            positions, `(C, positions)`.
    """
    prefixes = [_prefix(batch, number, asked) for number, asked in enumerate(continuations)]
    passes = agree_on_largest(-(-len(continuations) // rows_per_pass))
    found: list[Tensor] = []
    for number in range(passes):
        part = slice(number * rows_per_pass, (number + 1) * rows_per_pass)
        answers = [list(ids) for _, _, ids in continuations[part]]
        # A process with nothing left to score makes the pass with a single token.
        ids_CL, mask_CL = padded_rows(prefixes[part], answers, batch.lengths_B.device)
        longest = max([1, *map(len, answers)])
        logps = score(ids_CL, mask_CL, longest).float()
        found += [row[longest - len(ids) :] for row, ids in zip(logps, answers, strict=False)]
    return found


def _prefix(batch: ScoredBatch, number: int, asked: Continuation) -> list[int]:
    """Prompt and completion tokens before a continuation."""
    row, start, ids = asked
    rows = batch.completion_ids_BT.shape[0]
    if not 0 <= row < rows:
        raise ValueError(f"log_probs: continuation {number} names row {row} of {rows} completions.")
    completion = batch.completion_ids_BT[row]
    length = int((completion >= 0).sum())
    if not 0 <= start <= length:
        raise ValueError(
            f"log_probs: continuation {number} starts after {start} tokens of a completion that "
            f"has {length}."
        )
    if not all(isinstance(token, int) and token >= 0 for token in ids):
        raise ValueError(
            f"log_probs: continuation {number} has to be a list of token ids ≥ 0, got {ids!r:.200}."
        )
    prompt = batch.prompt_ids_BP[row]
    return prompt[prompt >= 0].tolist() + completion[:start].tolist()


def padded_rows(
    prefixes: list[list[int]], answers: list[list[int]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, padded on the left; one row of two tokens if there is none."""
    rows = [prefix + ids for prefix, ids in zip(prefixes, answers, strict=True)] or [[PAD, PAD]]
    width = max(2, *map(len, rows)) if len(rows) > 1 else max(2, len(rows[0]))
    ids = [[PAD] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
