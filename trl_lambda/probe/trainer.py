"""`ProbingTrainer`: asks the probes of a batch, and keeps their calibration in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.trainer import ResumableTrainer
from ..console import get_logger
from ..functional.segments import SegmentValues, values_with_children
from ..rule import CreditRule
from ..scored_batch import SampledBatch, ScoredBatch
from ..seam.continuations import Asked as Continuations
from ..seam.trainer import SeamTrainer
from ..seam.user_functions import raise_everywhere
from ..td_errors import CreditBatch
from .asking import find_answer_column
from .critic import AnswerProbe, Asked, probe_mark

logger = get_logger(__name__)


class ProbingTrainer(ResumableTrainer, SeamTrainer):
    """A trainer with an answer probe, where its method has one."""

    _probe: AnswerProbe | None = None

    def _make_probe(self, rule: CreditRule) -> None:
        """A probe for the method and the data set; one that is there for both already is kept."""
        if not rule.entry.probes:
            self._probe = None
            return
        wanted = getattr(self.args, "answer_column", None)
        mark = probe_mark(rule, wanted, self.train_dataset)
        if self._probe is None or mark != self._probe.mark:
            tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
            columns = _columns(self.train_dataset)
            self._probe = AnswerProbe(rule, tokenizer, columns, answer_column=wanted, mark=mark)

    def _with_probes(
        self, batch: ScoredBatch, made: CreditBatch, denominator_B: Tensor
    ) -> CreditBatch:
        """Values before each segment, and what takes the place of A_i.

        Args:
            denominator_B: A_i's; infinite where no reward is known.
        """
        probe, training = self._probe, self.model.training
        asked = self._asked(batch, training=training)
        assert probe is not None
        assert asked is not None
        log_probs = self._continuation_log_probs(batch, asked.continuations, asked.gold_tokens)
        probed = probe.answer(
            asked,
            log_probs,
            batch,
            denominator_B,
            self.accelerator.gather,
            training=training,
        )
        for name, value in probed.metrics.items():
            self._log_mean(name, value)
        return replace(
            made,
            advantage_B=probed.advantage_B,
            denominator_B=probed.denominator_B,
            segment_BT=asked.number_BT,
            segments=_with_forks(probed.values, asked.number_BT, batch, made),
        )

    def _doubts(
        self, rows: list[int], prompts: list[list[int]], completions: list[list[int]]
    ) -> list[list[float]]:
        """Where the answer is uncertain in completions that are not scored yet; a collective."""
        assert self._probe is not None
        batch = self._sampled(rows, prompts, completions)
        asked = self._asked(batch, training=True)
        if asked is None:  # others may have rows, and the passes are made together
            self._continuation_log_probs(batch, [], [])
            return []
        log_probs = self._continuation_log_probs(batch, asked.continuations, asked.gold_tokens)
        doubts = self._probe.doubts(asked, log_probs).tolist()
        return [row[: len(ids)] for row, ids in zip(doubts, completions, strict=True)]

    def _asked(self, batch: SampledBatch, *, training: bool) -> Asked | None:
        """The questions about a batch, None for one without rows; the probe's errors on one process
        are raised on all."""
        asked = error = None
        try:
            if self._probe is not None and len(batch.lengths_B):
                asked = self._probe.ask(batch, training=training)
        except Exception as raised:
            error = raised
        raise_everywhere(error)
        return asked

    def _asks_early(self) -> bool:
        return self._probe is not None

    def _early_continuations(self, batch: SampledBatch) -> Continuations:
        assert self._probe is not None
        asked = self._probe.ask(batch, training=self.model.training, ahead=True)
        return asked.continuations, asked.gold_tokens

    def _credit_state(self) -> dict[str, Any]:
        return {} if self._probe is None else {"probe": self._probe.state()}

    def _restore_credit_state(self, state: Mapping[str, Any]) -> None:
        if self._probe is not None and not self._probe.restore(state.get("probe")):
            logger.warning(
                "The checkpoint has no calibration of this answer probe on this data set: it "
                "starts anew, and training is RLOO's until it has seen enough groups."
            )


def _with_forks(
    values: SegmentValues, number_BT: Tensor, batch: ScoredBatch, made: CreditBatch
) -> SegmentValues:
    """Rewards of a fork's other branches, beside the probe; nothing where a reward of the group is
    unknown."""
    branches = batch.local_branches
    if branches is None:
        return values
    children_BT = branches.children(batch.tokens_B, number_BT.shape[1])
    unknown_B = torch.isin(made.group_B, made.group_N[made.reward_N.isnan()])
    tree_value_BT1 = made.groups.local_values().masked_fill(unknown_B[:, None], torch.nan)
    return values_with_children(values, number_BT, children_BT, tree_value_BT1)


def check_answers(rule: CreditRule, args: Any, data: Any) -> None:
    """Raises ValueError for a data set without the answers that the rule asks for."""
    columns = _columns(data)
    if rule.entry.probes and columns is not None:
        find_answer_column(columns, getattr(args, "answer_column", None))


def _columns(data: Any) -> list[str] | None:
    """A data set's columns; None where they are not known before it is read."""
    return getattr(data, "column_names", None) or None
