"""`ScoringTrainer`: log-probabilities of given continuations, at no pass more where TRL makes one.

TRL computes old log-probabilities of a batch once it is generated, without gradient, where the
loss needs them. What a trainer asks about that batch can go along with it: a hook says what, and
`shared` has how.

Shape suffixes: B completions of this process, T completion positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..rollout.outcome import Ids
from ..scored_batch import SampledBatch
from ..td_errors import Continuation
from .branching import BranchingTrainer
from .continuations import Asked, ContinuationScorer
from .shared import Answered, Rows
from .user_functions import data_columns


class ScoringTrainer(BranchingTrainer):
    """`GRPOTrainer` that scores continuations under its policy."""

    def __init__(self, *args, **kwargs):
        self._batch_rows: list[dict[str, Any]] = []
        # Between a generation and TRL's pass over it: the masks of tools, or of none.
        self._awaited: tuple[list[list[int]] | None] | None = None
        self._answered: Answered | None = None
        super().__init__(*args, **kwargs)

    # -- hooks ---------------------------------------------------------------------------------

    def _asks_early(self) -> bool:
        """Whether it is known before the rewards what will be asked; the same on all processes."""
        return False

    def _early_continuations(self, batch: SampledBatch) -> Asked:
        """The rows that will be asked, and how many last tokens of each; no collective.

        What it raises is left for the time when the batch is scored.
        """
        raise NotImplementedError

    def _log_probs(self, ids_CL: Tensor, mask_CL: Tensor, positions: int) -> Tensor:
        """Log-probabilities of the last positions, `(C, positions)`, under the policy; TRL's."""
        raise NotImplementedError

    # -- for subclasses ------------------------------------------------------------------------

    def _continuation_log_probs(
        self,
        batch: SampledBatch,
        continuations: Sequence[Continuation],
        last: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """See `CreditBatch.log_probs`; with `last`, of so many last tokens of each."""
        if batch.has_images:
            raise NotImplementedError(
                "log_probs scores text after text, and these prompts or completions hold images."
            )
        rows = self.args.per_device_train_batch_size
        return self._continuations.log_probs(
            batch, continuations, last=last, rows_per_pass=rows, known=self._answered
        )

    def _way_of_scoring(self) -> str:
        """How continuations are scored, as far as the model's looks tell."""
        scorer = self._continuations
        if not (self._asks_early() and self._makes_old_pass):
            return scorer.way
        fault = scorer.why_not_shared
        if fault is None:
            return "in TRL's pass for old log-probabilities, packed behind the completions"
        return f"{scorer.way}, beside TRL's for old log-probabilities ({fault})"

    @cached_property
    def _continuations(self) -> ContinuationScorer:
        rough = self.accelerator.mixed_precision not in (None, "no")
        return ContinuationScorer(lambda: self.model, self._log_probs, rough=rough)

    @property
    def _makes_old_pass(self) -> bool:
        """Whether TRL computes old log-probabilities of what it generates; its own condition."""
        every = self.args.steps_per_generation * self.num_iterations
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        return self.args.gradient_accumulation_steps % every != 0 or corrected

    # -- around TRL's methods ------------------------------------------------------------------

    @contextmanager
    def _scoring(self, rows: list[dict[str, Any]]) -> Iterator[None]:
        """While TRL generates and scores a batch of these rows."""
        self._batch_rows, self._answered = rows, None
        try:
            yield
        finally:
            self._batch_rows, self._awaited = [], None

    def _await_old_pass(self, tool_masks: list[list[int]] | None) -> None:
        """To be called when a batch is generated: TRL's next pass is that over it, if any."""
        if self._asks_early() and self._makes_old_pass:
            self._awaited = (tool_masks,)

    def _share_old_pass(
        self, plain: Callable[..., tuple], model: Any, *args, **kwargs
    ) -> tuple | None:
        """Values for TRL from the pass that was awaited; None for any other pass, or as it is.

        Args:
            plain: TRL's method; what follows are its arguments.
        """
        awaited, self._awaited = self._awaited, None
        if awaited is None or model is not self.model or len(args) < 3:
            return None
        ids_CL, mask_CL, keep, *others = args
        per_pass = others[0] if others else kwargs.pop("batch_size", None)
        rows = Rows(ids_CL, mask_CL, keep, per_pass or max(1, len(ids_CL)))
        logps = self._shared_log_probs(rows, awaited[0], kwargs, plain)
        # Neither entropies nor a loss of routers were asked for.
        return None if logps is None else (logps, None, None)

    def _shared_log_probs(
        self,
        rows: Rows,
        tool_masks: list[list[int]] | None,
        further: dict[str, Any],
        plain: Callable[..., tuple],
    ) -> Tensor | None:
        """TRL's old log-probabilities, and beside them what will be asked; None where not shared.

        Args:
            further: TRL's other arguments: images, if one of them says anything.
        """
        images = any(value is not None and value is not False for value in further.values())
        batch = self._sampled_batch(rows, tool_masks, has_images=images)
        asked = None
        if not images:
            try:
                asked = self._early_continuations(batch)
            except Exception:  # asked once more when the batch is scored, and raised there by all
                asked = None

        def score(input_ids: Tensor, attention_mask: Tensor, positions: int) -> Tensor:
            return plain(self.model, input_ids, attention_mask, positions)[0]

        found = self._continuations.shared(batch, asked, rows, score)
        if found is None:
            return None
        logps, self._answered = found
        return logps

    def _sampled(self, rows: list[int], prompts: list[Ids], completions: list[Ids]) -> SampledBatch:
        """Rows of this process before TRL has its batch; all tokens are the policy's."""
        device = self.accelerator.device
        ids_BT = _padded(completions, device)
        return SampledBatch(
            completion_ids_BT=ids_BT,
            prompt_ids_BP=_padded([ids[::-1] for ids in prompts], device).flip(1),
            lengths_B=(ids_BT >= 0).sum(1),
            mask_BT=ids_BT >= 0,
            has_images=False,
            columns=data_columns([self._batch_rows[row] for row in rows]) if rows else {},
        )

    def _sampled_batch(
        self, rows: Rows, tool_masks: list[list[int]] | None, *, has_images: bool
    ) -> SampledBatch:
        ids_CL, mask_CL, T, _ = rows
        known_CL = ids_CL.masked_fill(mask_CL == 0, -1)
        completion_mask_BT = mask_CL[:, -T:]
        mask_BT = completion_mask_BT.bool()
        if tool_masks is not None:
            tools = [mask + [0] * (T - len(mask)) for mask in tool_masks]
            mask_BT = mask_BT & torch.tensor(tools, device=mask_BT.device).bool()
        return SampledBatch(
            completion_ids_BT=known_CL[:, -T:],
            prompt_ids_BP=known_CL[:, :-T],
            lengths_B=completion_mask_BT.sum(1),
            mask_BT=mask_BT,
            has_images=has_images,
            columns=data_columns(self._batch_rows),
        )


def _padded(rows: list[Ids], device: torch.device) -> Tensor:
    """Token ids, −1 behind them; one column at least."""
    width = max([1, *map(len, rows)])
    padded = [[*ids, *[-1] * (width - len(ids))] for ids in rows]
    return torch.tensor(padded, device=device, dtype=torch.long).view(len(rows), width)
