"""Shows users a batch's credit: logged metrics, the completions table, the credit log.

Shape suffixes: B completions of this process, N of all processes, T completion positions, W
completions of groups that begin on this process.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .config import credit_log_max_mb, steps_between_records
from .credit import Z_LIMIT, Credit, token_gains
from .credit_log.callback import FollowTraining
from .credit_log.format import FirstUpdate, ScoredRows
from .credit_log.recorder import CreditRecorder
from .host import callbacks
from .metrics import (
    fork_statistics,
    gain_statistics,
    means_and_maximum,
    means_over_processes,
    process_set_statistics,
    traced_ratio_statistics,
    zero_variance_share,
)
from .report.trackers import TrackCreditFigures
from .rule import CreditRule
from .scored_batch import ScoredBatch
from .seam.loss_plan import LossPlan
from .seam.loss_terms import per_token_kl
from .td_errors import CreditBatch, checked_td_errors

if TYPE_CHECKING:
    from .trainer import LambdaGRPOTrainer

# Columns that we add to the completions table, beside replacing `advantage`.
OWN_COLUMNS = ("group_advantage", "process_set_weight")


class CreditObserver:
    """Looks at the credit of a trainer's batches, and at what the loss makes of it.

    Args:
        trainer: its methods for logging are called; nothing of it is changed but its callbacks.
    """

    def __init__(self, trainer: LambdaGRPOTrainer):
        self.trainer = trainer
        self.recorder = self._make_recorder()

    def observe_credit(
        self,
        rule: CreditRule,
        batch: ScoredBatch,
        signal: CreditBatch,
        credit: Credit,
        sizes_WT: Tensor,
        trained: Tensor | None,
    ) -> dict[str, Tensor]:
        """Metrics, completions table and credit log of a batch; what travels with it for the log.

        Args:
            sizes_WT: process-set sizes, of each group on one process.
            trained: tensors in the place of TRL's advantages, if there are any.
        """
        gain_BT = token_gains(rule, batch.mask_BT, signal.segment_BT)
        self._log_metrics(rule, batch, gain_BT, sizes_WT)
        travels = {}
        if batch.branches is not None:
            travels["fork"] = batch.branches.forked_at(batch.tokens_B)
        training = self.trainer.model.training
        if self.recorder and training and self.recorder.due(self.trainer.state.global_step):
            travels["credit_row"] = self._record(batch, signal, credit, gain_BT)
        if trained is not None:
            self._show(batch, credit, trained)
        return travels

    def observe_ratio(self, z_BT: Tensor, mask_BT: Tensor) -> None:
        """Metrics of the traced log-ratio."""
        trainer = self.trainer
        lower, upper = trainer._ratio_rule.limits
        statistics = traced_ratio_statistics(z_BT, mask_BT, limit=Z_LIMIT, lower=lower, upper=upper)
        means, largest = means_and_maximum(trainer.accelerator, statistics, z_BT.abs().max())
        for name, value in means.items():
            trainer._log_mean(name, value)
        trainer._log_largest("trace/z_abs_max", largest)

    def watches(self, inputs: dict[str, Any]) -> bool:
        """Whether `observe_loss` has something to look at."""
        return "fork" in inputs or self._records(inputs)

    def _records(self, inputs: dict[str, Any]) -> bool:
        """Whether this loss call sees rows of a recorded batch for the first time."""
        return bool(self.recorder and self.recorder.watching and "credit_row" in inputs)

    def observe_loss(self, inputs: dict[str, Any], plan: LossPlan) -> None:
        """Entropy at forks, and a record of what the loss saw of the rows that it watches."""
        if "fork" in inputs and plan.entropy_BT is not None:
            found = fork_statistics(plan.entropy_BT, inputs["fork"])
            for name, value in means_over_processes(self.trainer.accelerator, found).items():
                if not math.isnan(value):
                    self.trainer._log_mean(name, value)
        if not self._records(inputs):
            return
        advantages = plan.advantages  # (B,) where the rule leaves TRL's
        logps_BT, reference_BT = plan.logps_BT.detach(), plan.reference_logps_BT
        update = FirstUpdate(
            logps_BT=logps_BT,
            entropy_BT=plan.entropy_BT,
            old_logps_BT=plan.old_logps_BT,
            z_BT=self.trainer._ratio_rule.log_ratio(plan.z_BT.detach(), plan.mask_BT),
            kl_BT=None
            if reference_BT is None
            else per_token_kl(logps_BT, reference_BT, logps_BT, bias_correction=False),
            advantage_BT=advantages.view(len(advantages), -1).expand_as(logps_BT),
            mask_BT=plan.mask_BT,
            lengths_B=plan.lengths_B,
        )
        self.recorder.record_update(inputs["credit_row"], update)

    # -- parts of the above ----------------------------------------------------------------------

    def _log_metrics(
        self, rule: CreditRule, batch: ScoredBatch, gain_BT: Tensor, sizes_WT: Tensor
    ) -> None:
        statistics = process_set_statistics(sizes_WT, batch.group_size)
        if rule.traced:
            statistics |= gain_statistics(gain_BT, batch.mask_BT)
        means = means_over_processes(self.trainer.accelerator, statistics)
        for name, value in means.items():
            self.trainer._log_mean(name, value)
        share = zero_variance_share(batch.reward_N, batch.group_size)
        self.trainer._log_mean("groups/zero_variance", share)

    def _show(self, batch: ScoredBatch, credit: Credit, trained: Tensor) -> None:
        """In the completions table: means over policy tokens of what is trained on, and A_i."""
        if trained.ndim == 1:  # one advantage for each completion, which may have a floor
            columns, local_BC = ("advantage",), trained[:, None]
        else:
            tokens_B = batch.mask_BT.sum(1).clamp(min=1)
            columns = ("advantage", *OWN_COLUMNS)
            advantage_B, weight_B = trained.sum(1) / tokens_B, credit.weight_BT.sum(1) / tokens_B
            local_BC = torch.stack([advantage_B, batch.advantage_B, weight_B], 1)
        shown_NC = self.trainer.accelerator.gather(local_BC)
        for column, values_N in zip(columns, shown_NC.unbind(1), strict=True):
            self.trainer._show_in_completions_table(column, values_N.tolist())

    def _make_recorder(self) -> CreditRecorder | None:
        trainer, args = self.trainer, self.trainer.args
        every = steps_between_records(args)
        if every is None:
            return None
        recorder = CreditRecorder(
            trainer.accelerator,
            trainer.processing_class,
            Path(args.output_dir) / "credit_log",
            every=every,
            max_mb=credit_log_max_mb(args),
            micro_batches=args.steps_per_generation,
            clipped=trainer._ratio_rule.clipped,
        )
        trainer.add_callback(FollowTraining(recorder, trainer._method_values))
        if recorder.log is not None:
            # First: when training ends, Trackio's own callback closes the run.
            callbacks(trainer).insert(0, TrackCreditFigures(recorder.log))
        return recorder

    def _record(
        self, batch: ScoredBatch, signal: CreditBatch, credit: Credit, gain_BT: Tensor
    ) -> Tensor:
        table = self.trainer._completions_table(batch.reward_N.shape[0])
        branches = batch.branches
        rows = ScoredRows(
            completion_ids_BT=batch.completion_ids_BT,
            prompt_ids_BP=batch.prompt_ids_BP,
            mask_BT=batch.mask_BT,
            reward_B=signal.reward_B,
            group_advantage_B=batch.advantage_B,
            advantage_BT=credit.advantage_BT,
            weight_BT=credit.weight_BT,
            gain_BT=gain_BT,
            size_BT=signal.sizes_BT,
            table={n: column[batch.rows] for n, column in table.items() if n not in OWN_COLUMNS},
            parent_B=None if branches is None else branches.parent_B % batch.group_size,
            fork_B=None if branches is None else branches.fork_B,
            **_of_probe(self.trainer._rule, signal),
        )
        return self.recorder.record_groups(
            rows,
            step=self.trainer.state.global_step,
            first_row=batch.first_row,
            group_size=batch.group_size,
        )


def _of_probe(rule: CreditRule, signal: CreditBatch) -> dict[str, Tensor]:
    """δ of each token and V before its segment, where the credit comes from an answer probe."""
    if signal.segments is None or signal.segment_BT is None:
        return {}
    number_BT = signal.segment_BT
    value_BS = signal.segments.value_BS
    # A row without a probe may have more segments than any that has one.
    value_BT = value_BS.gather(1, number_BT.clamp(0, value_BS.shape[1] - 1))
    return {
        "td_error_BT": checked_td_errors(rule.td_error, signal),
        "value_BT": value_BT.masked_fill(number_BT < 0, torch.nan),
    }
