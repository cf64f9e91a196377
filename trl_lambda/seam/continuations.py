"""Log-probabilities of given continuations: each prefix alone, or all of a row in one pass.

The slow way scores each prefix with its continuation in a row of its own. Where the model takes a
four-dimensional mask (`packed`), the continuations of one completion stand behind it in one row,
and each sees nothing but the prefix that it continues and itself. Both give the same numbers.

Shape suffixes: C rows of one forward pass, L their positions, prompt and prefix included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..console import get_logger
from ..scored_batch import SampledBatch
from ..td_errors import Continuation
from .packed import (
    Request,
    backbone_of,
    handed_in,
    left_padded,
    packed_passes,
    packing_fault,
    takes_positions,
    trial_requests,
)
from .shared import (
    Answered,
    Rows,
    Score,
    passes_needed,
    score_shared,
    sharing_fault,
    trial_rows,
)
from .user_functions import agree_on_largest

logger = get_logger(__name__)

# How far the two ways may be apart on a trial: in 32 bits, which a GPU may round to 19, and in 16,
# where log-probabilities of random tokens, about −10, are a few hundredths off.
TRIAL_TOLERANCE, ROUGH_TOLERANCE = 5e-3, 0.3
# A process that cannot take part in a shared pass says so: more passes than any batch has.
NO_PASSES = 2**31

Asked = tuple[Sequence[Continuation], Sequence[int]]


@dataclass(frozen=True)
class _Pass:
    """One forward pass, and which continuations it answers.

    Attributes:
        ids_CL, scored_CL: token ids, and 1 on the tokens whose log-probability is asked for.
        inputs: the backbone's arguments in the place of TRL's own.
        positions: how many of the last positions are scored.
        where: for each answer (number of the request, row, first and last + 1 of those positions).
    """

    ids_CL: Tensor
    scored_CL: Tensor
    inputs: dict[str, Tensor]
    positions: int
    where: list[tuple[int, int, int, int]]


class ContinuationScorer:
    """Scores continuations under one model, in the way that it looks to be fit for.

    Attributes:
        shares: whether continuations may go along with TRL's own pass; None until it is tried.

    Args:
        model: returns the policy.
        score: (input ids, mask, positions) -> log-probabilities of the last positions,
            `(C, positions)`, of tokens at which the mask is nonzero; TRL's.
        rough: whether it computes in 16 bits whatever the weights are.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        score: Callable[[Tensor, Tensor, int], Tensor],
        *,
        rough: bool = False,
    ):
        self._model, self._score, self._rough = model, score, rough
        self._packs: bool | None = None
        self.shares: bool | None = None

    def log_probs(
        self,
        batch: SampledBatch,
        continuations: Sequence[Continuation],
        *,
        last: Sequence[int] | None = None,
        rows_per_pass: int,
        known: Answered | None = None,
    ) -> list[Tensor]:
        """See `CreditBatch.log_probs`.

        All processes make the same number of passes: with sharded weights each is a collective.

        Args:
            last: how many of the last tokens of each continuation are asked for; None for all.
            known: from `shared`; None on all processes or on none.
        """
        requests = _requests(batch, continuations, last)
        found = [None if known is None else known.of(request) for request in requests]
        unknown = [one for one, answer in zip(requests, found, strict=True) if answer is None]
        if known is not None and not agree_on_largest(len(unknown)):
            return [answer for answer in found if answer is not None]
        device = batch.lengths_B.device
        with torch.no_grad(), evaluated(self._model()):
            more = iter(self._answers(unknown, rows_per_pass, device, packs=self._decided(device)))
        return [next(more) if answer is None else answer for answer in found]

    def shared(
        self, batch: SampledBatch, asked: Asked | None, rows: Rows, score: Score
    ) -> tuple[Tensor, Answered] | None:
        """TRL's log-probabilities of a batch, and those of continuations, from the same passes.

        Args:
            asked: continuations and how many of the last tokens of each are asked for; None where
                this process cannot say.
            rows: those that TRL asks for.
            score: TRL's answer to it.

        Returns:
            None, on all processes alike, where TRL has to make its pass as it is.
        """
        if not self._may_share(batch.lengths_B.device):
            return None
        requests = [] if asked is None else _requests(batch, *asked)
        passes = None if asked is None else passes_needed(rows, requests)
        agreed = agree_on_largest(NO_PASSES if passes is None else passes)
        if agreed >= NO_PASSES:
            return None
        logps, answers = score_shared(rows, requests, agreed, score, self._model())
        return logps, Answered(requests, answers)

    @property
    def why_not_shared(self) -> str | None:
        """Why continuations do not go along with TRL's pass, as far as the model's looks tell."""
        fault = packing_fault(self._model()) or sharing_fault(self._model())
        if fault is None and (self._packs is False or self.shares is False):
            return "a trial gave other numbers"
        return fault

    @property
    def way(self) -> str:
        """How it scores by itself, in words, as far as the model's looks tell."""
        fault = packing_fault(self._model())
        if fault is None and self._packs is not False:
            return "one forward pass a completion, probes packed behind it"
        return f"one forward pass a segment ({fault or 'the packed pass gave other numbers'})"

    def _answers(
        self, requests: list[Request], rows: int, device: torch.device, *, packs: bool
    ) -> list[Tensor]:
        model = self._model()
        make = packed_passes if packs else _slow_passes
        passes = [_Pass(*made) for made in make(requests, rows, model, device)]
        answers = [torch.zeros(0, device=device)] * len(requests)
        for number in range(agree_on_largest(len(passes))):
            # A process with nothing left to score makes the pass with a single token.
            one = passes[number] if number < len(passes) else _idle(device)
            with handed_in(backbone_of(model), one.inputs):
                logps = self._score(one.ids_CL, one.scored_CL, one.positions).float()
            for request, row, first, end in one.where:
                answers[request] = logps[row, first:end]
        return answers

    def _decided(self, device: torch.device) -> bool:
        """Whether to pack; chosen when first needed."""
        if self._packs is None:
            self._packs = self._chosen(device)
        return self._packs

    def _may_share(self, device: torch.device) -> bool:
        """Whether continuations may go along with TRL's pass. All agree."""
        with torch.no_grad(), evaluated(self._model()):
            if not self._decided(device):
                return False
        if self.shares is None:
            self.shares = self._chosen_to_share(device)
        return self.shares

    def _chosen_to_share(self, device: torch.device) -> bool:
        fault = _fault_anywhere(
            sharing_fault(self._model()),
            lambda: self._sharing_trial_fault(device),
            elsewhere="another process cannot share that one",
        )
        if fault is None:
            logger.info(
                "Continuations (answer probes) go along with TRL's forward pass for old "
                "log-probabilities, packed behind the completions; they take no pass more."
            )
            return True
        logger.warning(
            "Continuations (answer probes) take a forward pass of their own beside TRL's for old "
            "log-probabilities: %s.",
            fault,
        )
        return False

    def _chosen(self, device: torch.device) -> bool:
        """Whether to pack: by what the model says of itself, and by trying it. All agree."""
        fault = _fault_anywhere(
            packing_fault(self._model()),
            lambda: self._trial_fault(device),
            elsewhere="another process cannot pack them",
        )
        if fault is None:
            logger.info(
                "Continuations (answer probes, batch.log_probs) are scored in one forward pass "
                "a completion, packed behind it."
            )
            return True
        logger.warning(
            "Continuations (answer probes, batch.log_probs) are scored with one forward pass for "
            "each prefix, which costs more than packing them behind the completion: %s.",
            fault,
        )
        return False

    def _trial_fault(self, device: torch.device) -> str | None:
        """Why the two ways give other numbers on a few random tokens; None if they do not."""
        requests = trial_requests(self._model())
        packed, slow = (
            torch.cat(self._answers(requests, len(requests), device, packs=packs))
            for packs in (True, False)
        )
        apart = (packed - slow).abs().max().item()
        if apart <= self._tolerance:
            return None
        return (
            f"on a trial of {len(requests)} continuations the packed pass was {apart:.3g} off, so "
            "the model does not read a four-dimensional mask as others do"
        )

    def _sharing_trial_fault(self, device: torch.device) -> str | None:
        """Why a shared pass gives other numbers for a few random tokens; None if it does not."""
        model = self._model()
        rows, requests = trial_rows(model, device)
        with torch.no_grad():
            logps, answers = score_shared(rows, requests, 1, self._score, model)
            plain = self._score(*rows[:3])
            with evaluated(model):
                slow = self._answers(requests, len(requests), device, packs=False)
        there = rows.mask_CL[:, -rows.keep :].bool()
        apart = max(
            (logps - plain)[there].abs().max().item(),
            (torch.cat(answers) - torch.cat(slow)).abs().max().item(),
        )
        if apart <= self._tolerance:
            return None
        return f"on a trial of {len(requests)} continuations the shared pass was {apart:.3g} off"

    @property
    def _tolerance(self) -> float:
        exact = next(self._model().parameters()).dtype in (torch.float32, torch.float64)
        return TRIAL_TOLERANCE if exact and not self._rough else ROUGH_TOLERANCE


def _fault_anywhere(
    looks: str | None, trial: Callable[[], str | None], *, elsewhere: str
) -> str | None:
    """Why a way cannot be gone on some process; None if all can. All make the trial, or none.

    Args:
        looks: the fault that the model's looks show.
        trial: says what a trial finds against it.
        elsewhere: the fault to tell where another process has one, and this one has none.
    """
    fault = looks
    if not agree_on_largest(int(fault is not None)):
        fault = trial()
        if not agree_on_largest(int(fault is not None)):
            return None
    return fault or elsewhere


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Without dropout, and without checkpointed activations, which nothing would read."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _slow_passes(
    requests: list[Request], rows: int, model: nn.Module, device: torch.device
) -> Iterator[tuple[Any, ...]]:
    """One row for each prefix with its continuation, padded on the left."""
    for begin in range(0, len(requests), rows):
        part = requests[begin : begin + rows]
        texts = [request.prefix + request.ids for request in part]
        longest = max(1, *(request.scored for request in part))
        ids_CL, mask_CL = left_padded(texts, device)
        inputs = {}
        if takes_positions(model):
            inputs["position_ids"] = (mask_CL.cumsum(1) - 1).clamp(min=0)
        where = [
            (begin + row, row, longest - request.scored, longest)
            for row, request in enumerate(part)
        ]
        yield ids_CL, mask_CL, inputs, longest, where


def _idle(device: torch.device) -> _Pass:
    return _Pass(*left_padded([], device), {}, 1, [])


def _requests(
    batch: SampledBatch, continuations: Sequence[Continuation], last: Sequence[int] | None
) -> list[Request]:
    """Raises ValueError for a continuation that cannot be."""
    texts: dict[int, list[int]] = {}
    requests = []
    for number, (row, start, ids) in enumerate(continuations):
        _check(batch, number, (row, start, ids))
        if row not in texts:
            texts[row] = _tokens_of(batch, row)
        prompt = int((batch.prompt_ids_BP[row] >= 0).sum())
        asked = len(ids) if last is None else last[number]
        requests.append(Request(row, texts[row][: prompt + start], list(ids), asked))
    return requests


def _tokens_of(batch: SampledBatch, row: int) -> list[int]:
    """Prompt and completion."""
    both = torch.cat([batch.prompt_ids_BP[row], batch.completion_ids_BT[row]])
    return both[both >= 0].tolist()


def _check(batch: SampledBatch, number: int, asked: Continuation) -> None:
    """Raises ValueError for a continuation that cannot be."""
    row, start, ids = asked
    rows = batch.completion_ids_BT.shape[0]
    if not 0 <= row < rows:
        raise ValueError(f"log_probs: continuation {number} names row {row} of {rows} completions.")
    length = int((batch.completion_ids_BT[row] >= 0).sum())
    if not 0 <= start <= length:
        raise ValueError(
            f"log_probs: continuation {number} starts after {start} tokens of a completion that "
            f"has {length}."
        )
    if not all(isinstance(token, int) and token >= 0 for token in ids):
        raise ValueError(
            f"log_probs: continuation {number} has to be a list of token ids ≥ 0, got {ids!r:.200}."
        )
