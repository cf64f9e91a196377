"""`LambdaGRPOTrainer`: wires the method into TRL's GRPO.

Shape suffixes: B completions of this process, N of all processes, T completion positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from logging import WARNING
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from torch import Tensor
from transformers.trainer_utils import TrainOutput
from trl import GRPOConfig

from .batch_plan.plan import BatchPlan, plan_batches
from .checkpoints.reference import reference_sync, sync_taken_from_trl
from .checkpoints.trainer import ResumableTrainer
from .config import LambdaGRPOConfig, method_fields
from .credit import (
    Z_LIMIT,
    Credit,
    CreditRule,
    Signal,
    assign_credit,
    token_gains,
    traced_log_ratio,
)
from .credit_log.format import FirstUpdate, ScoredRows
from .credit_log.recorder import CreditRecorder
from .credit_log.writing import LogToCreditLog, run_description
from .functional import reward_denominator
from .functional.td_errors import Steps, normalize_steps
from .groups import WholeGroups, whole_groups
from .health.dropout import dropout_warning
from .health.no_learning import ALL_TRUNCATED, SYMPTOMS, Symptom, WarnOfNoLearning
from .health.sampling_mismatch import SamplingMismatchWarning
from .hub import HubTrainer
from .metrics import (
    gain_statistics,
    means_and_maximum,
    means_over_processes,
    process_set_statistics,
    traced_ratio_statistics,
    zero_variance_share,
)
from .report.trackers import TrackCreditFigures
from .scored_batch import ScoredBatch
from .seam.loss_terms import per_token_kl
from .seam.trainer import LossPlan, SeamTrainer
from .seam.user_functions import check_process_reward_func
from .seam.vllm_cpu import refuse_sleep_on_cpu

logger = get_logger(__name__)

# What we add to the completions table, beside replacing `advantage`.
OWN_COLUMNS = ("group_advantage", "process_set_weight")

ProcessRewardFunc = Callable[..., Sequence[Sequence[tuple[int, float]] | None]]


class LambdaGRPOTrainer(HubTrainer, ResumableTrainer, SeamTrainer):
    """`GRPOTrainer` with credit for single tokens; takes all that it takes, in the same order.

    Args:
        model, reward_funcs, args, ...: as for `GRPOTrainer`. `args` is a `LambdaGRPOConfig`; a
            plain `GRPOConfig` keeps all its values and gets the defaults of our fields.
        process_reward_funcs: one callable or several, for `td_error="process"`. Each is called with
            `prompts`, `completions`, `completion_ids` and the data set's columns (like a reward
            function) and returns for each completion a list of (index of the token that ends the
            step, reward), or None to abstain. Each function's rewards are normalised by themselves,
            then added. Outcome rewards (`reward_funcs`) are logged; they are trained on as well, as
            a TD error on the last policy token, if `args.reward_weights` is set.

    Raises:
        ValueError: settings that mean nothing (see `LambdaGRPOConfig`), process rewards without
            `td_error="process"` or the other way round.
    """

    _tag_names = ["trl", "trl-lambda", "grpo"]  # noqa: RUF012 (TRL's attribute, TRL's type)
    _name = "LambdaGRPO"
    config_fields_shown = (*method_fields(), "loss_type", "scale_rewards")
    credit_fields = tuple(method_fields())

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        *positional: Any,
        process_reward_funcs: ProcessRewardFunc | Sequence[ProcessRewardFunc] | None = None,
        **options: Any,
    ):
        args = _lambda_config(model, args)
        if process_reward_funcs is None:
            process_reward_funcs = []
        elif callable(process_reward_funcs):
            process_reward_funcs = [process_reward_funcs]
        _check_process_rewards(args, process_reward_funcs)
        _warn_of_vanishing_credit(args)
        refuse_sleep_on_cpu(args)
        self.rule = args.credit_rule
        with sync_taken_from_trl(args) as synced:
            super().__init__(
                model,
                reward_funcs,
                args,
                *positional,
                process_reward_funcs=process_reward_funcs,
                **options,
            )
        if synced:
            self.add_callback(reference_sync(self.model, self.ref_model, self.accelerator))
        if warning := dropout_warning(self.model, self.rule):
            logger.warning(warning)
        self.recorder = self._make_recorder()
        if not any(isinstance(c, WarnOfNoLearning) for c in self.callback_handler.callbacks):
            self.add_callback(WarnOfNoLearning(_symptoms(self.rule)))
        if self.use_vllm:
            self.add_callback(SamplingMismatchWarning())

    def batch_plan(self) -> BatchPlan:
        """What the batch sizes come to; `train` prints it.

        Raises:
            ValueError: they do not fit the data set; the message has the nearest that do.
        """
        return plan_batches(
            self.args.batch_sizes(
                num_processes=self.accelerator.num_processes,
                num_prompts=_rows(self.train_dataset),
                num_eval_prompts=_rows(self.eval_dataset),
            )
        )

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As TRL's; prints the batch plan first, unless `args.log_level` asks for errors only."""
        plan = self.batch_plan()
        if self.is_world_process_zero() and self.args.get_process_log_level() <= WARNING:
            print(plan, flush=True)
        return super().train(*args, **kwargs)

    def credit(self, batch: ScoredBatch) -> dict[str, Tensor]:
        if self.rule.shares_prefixes and batch.images_added:
            raise NotImplementedError(
                "A tool or an environment returned images. Completions that show different images "
                "have the same placeholder tokens, so process sets cannot tell them apart. Train "
                "without such tools, or with process_set_weighting=False and another td_error "
                "than 'tree'."
            )
        groups = whole_groups(self.accelerator, batch)
        sizes_WT = groups.sets.sizes()
        self._log_batch(batch, sizes_WT[groups.begun])
        sizes_BT = groups.local_sizes(sizes_WT)
        credit = assign_credit(self.rule, self._signal(batch, groups, sizes_BT))
        recorded = {}
        if self.recorder and self.mode == "train" and self.recorder.due(self.state.global_step):
            recorded = {"credit_row": self._record(batch, credit, sizes_BT)}
        if not self.rule.token_level:
            return self._sequence_credit(batch) | recorded
        tensors = {"advantages": credit.advantage_BT}
        if self.rule.process_set_weighting and self.beta != 0.0:
            tensors["kl_weight"] = credit.weight_BT
        self._show_credit(batch, credit.advantage_BT, credit.weight_BT)
        return tensors | recorded

    def loss_plan(self, inputs: dict[str, Any], mask_BT: Tensor) -> LossPlan | None:
        kl_weight_BT = inputs.get("kl_weight")
        if self.rule.traces_ratio and self.beta != 0.0 and kl_weight_BT is None:
            kl_weight_BT = torch.ones_like(mask_BT)
        watched = self._is_watched(inputs)
        if not (self.rule.traces_ratio or kl_weight_BT is not None or watched):
            return None

        def trace(log_ratio_BT: Tensor) -> Tensor:
            z_BT = traced_log_ratio(self.rule, log_ratio_BT, mask_BT)
            self._log_traced_ratio(z_BT.detach(), mask_BT)
            return z_BT.clamp(-Z_LIMIT, Z_LIMIT)

        return LossPlan(
            trace=trace if self.rule.traces_ratio else None,
            kl_weight_BT=kl_weight_BT,
            mask_BT=mask_BT,
            old_logps_BT=inputs.get("old_per_token_logps"),
        )

    def observe_loss(self, inputs: dict[str, Any], plan: LossPlan) -> None:
        if not self._is_watched(inputs):
            return
        advantages = inputs["advantages"]  # (B,) where the rule leaves TRL's
        logps_BT, reference_BT = plan.logps_BT.detach(), inputs.get("ref_per_token_logps")
        update = FirstUpdate(
            logps_BT=logps_BT,
            old_logps_BT=plan.old_logps_BT,
            z_BT=plan.z_BT.detach(),
            kl_BT=None
            if reference_BT is None
            else per_token_kl(logps_BT, reference_BT, logps_BT, bias_correction=False),
            advantage_BT=advantages.view(len(advantages), -1).expand_as(logps_BT),
            lengths_B=inputs["completion_mask"].sum(1),
        )
        self.recorder.record_update(inputs["credit_row"], update)

    def _is_watched(self, inputs: dict[str, Any]) -> bool:
        """Whether the recorder sees rows of this micro-batch for the first time."""
        return bool(self.recorder and self.recorder.watching and "credit_row" in inputs)

    def _make_recorder(self) -> CreditRecorder | None:
        every = self.args.steps_between_records
        if every is None:
            return None
        recorder = CreditRecorder(
            self.accelerator,
            self.processing_class,
            Path(self.args.output_dir) / "credit_log",
            every=every,
            max_mb=self.args.credit_log_max_mb,
            micro_batches=self.args.steps_per_generation,
            clip_range=(1 - self.epsilon_low, 1 + self.epsilon_high),
        )
        if recorder.log is not None:
            recorder.log.write_meta(run_description(self.args))
            self.add_callback(LogToCreditLog(recorder.log))
            # First: when training ends, Trackio's own callback closes the run.
            self.callback_handler.callbacks.insert(0, TrackCreditFigures(recorder.log))
        return recorder

    def _record(self, batch: ScoredBatch, credit: Credit, sizes_BT: Tensor) -> Tensor:
        table = self.completions_table(batch.reward_N.shape[0])
        rows = ScoredRows(
            completion_ids_BT=batch.completion_ids_BT,
            prompt_ids_BP=batch.prompt_ids_BP,
            mask_BT=batch.mask_BT,
            reward_B=batch.reward_N[batch.rows],
            group_advantage_B=batch.advantage_B,
            advantage_BT=credit.advantage_BT,
            weight_BT=credit.weight_BT,
            gain_BT=token_gains(self.rule, batch.mask_BT),
            size_BT=sizes_BT,
            table={n: column[batch.rows] for n, column in table.items() if n not in OWN_COLUMNS},
        )
        return self.recorder.record_groups(
            rows,
            step=self.state.global_step,
            first_row=batch.first_row,
            group_size=batch.group_size,
        )

    def _signal(self, batch: ScoredBatch, groups: WholeGroups, sizes_BT: Tensor) -> Signal:
        if self.rule.td_error == "process":
            weighted = self.args.reward_weights is not None
            return Signal(
                mask_BT=batch.mask_BT,
                advantage_B=batch.advantage_B if weighted else torch.zeros_like(batch.advantage_B),
                sizes_BT=sizes_BT,
                steps=self._normalized_steps(batch),
            )
        if self.rule.td_error == "tree":
            return Signal(
                mask_BT=batch.mask_BT,
                advantage_B=batch.advantage_B,
                sizes_BT=sizes_BT,
                values_BT1=groups.local_values(),
                denominator_B=self._denominator(batch),
            )
        return Signal(batch.mask_BT, batch.advantage_B, sizes_BT)

    def _denominator(self, batch: ScoredBatch) -> Tensor:
        """`(B,)`: what TRL divided A_i by; infinite where no reward is known: nothing is learnt."""
        denominator_N = reward_denominator(
            batch.reward_N, batch.group_ids_N, scale=self.args.scale_rewards
        )
        return denominator_N.masked_fill(batch.reward_N.isnan(), torch.inf)[batch.rows]

    def _normalized_steps(self, batch: ScoredBatch) -> Steps:
        parts = [
            normalize_steps(steps, batch.group_ids_N, scale=self.args.scale_rewards)
            for steps in batch.steps
        ]
        return Steps.concatenate(parts).rows(batch.rows)

    def _sequence_credit(self, batch: ScoredBatch) -> dict[str, Tensor]:
        """Stock GRPO, but for the floor."""
        if self.rule.advantage_floor is None:
            return {}
        advantage_B = batch.advantage_B.clamp(min=self.rule.advantage_floor)
        shown = self.accelerator.gather(advantage_B)
        self.show_in_completions_table("advantage", shown.tolist())
        return {"advantages": advantage_B}

    def _log_batch(self, batch: ScoredBatch, sizes_WT: Tensor) -> None:
        """Logs what holds of the batch; `sizes_WT` of each group on one process."""
        statistics = process_set_statistics(sizes_WT, batch.group_size)
        if self.rule.traced:
            statistics |= gain_statistics(token_gains(self.rule, batch.mask_BT), batch.mask_BT)
        for name, value in means_over_processes(self.accelerator, statistics).items():
            self.log_metric(name, value)
        share = zero_variance_share(batch.reward_N, batch.group_size)
        self.log_metric("groups/zero_variance", share)

    def _log_traced_ratio(self, z_BT: Tensor, mask_BT: Tensor) -> None:
        statistics = traced_ratio_statistics(
            z_BT,
            mask_BT,
            limit=Z_LIMIT,
            lower=1 - self.epsilon_low,
            upper=1 + self.epsilon_high,
        )
        means, largest = means_and_maximum(self.accelerator, statistics, z_BT.abs().max())
        for name, value in means.items():
            self.log_metric(name, value)
        self.log_maximum("trace/z_abs_max", largest)

    def _show_credit(self, batch: ScoredBatch, advantage_BT: Tensor, weight_BT: Tensor) -> None:
        """In the completions table: means over policy tokens of what is trained on, and A_i."""
        tokens_B = batch.mask_BT.sum(1).clamp(min=1)
        local = [advantage_BT.sum(1) / tokens_B, batch.advantage_B, weight_BT.sum(1) / tokens_B]
        columns = ("advantage", *OWN_COLUMNS)
        shown = self.accelerator.gather(torch.stack(local, 1))
        for column, values_N in zip(columns, shown.unbind(1), strict=True):
            self.show_in_completions_table(column, values_N.tolist())


def _lambda_config(model: Any, args: GRPOConfig | None) -> LambdaGRPOConfig:
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        return LambdaGRPOConfig(f"{(name or 'model').split('/')[-1]}-LambdaGRPO")
    if isinstance(args, LambdaGRPOConfig):
        args.check_method()  # values may have been set since it was built
        return args
    converted = LambdaGRPOConfig.from_grpo_config(args)
    logger.warning(
        "LambdaGRPOTrainer got a plain GRPOConfig: its values are kept (loss_type=%r, "
        "scale_rewards=%r), the fields of LambdaGRPOConfig get their defaults.",
        args.loss_type,
        args.scale_rewards,
    )
    return converted


def _rows(data: Any) -> int | None:
    """How many there are, of all sets if there are several; None if a stream is among them."""
    if isinstance(data, dict):
        counts = [_rows(part) for part in data.values()]
        return None if None in counts else sum(counts)
    return len(data) if isinstance(data, Sized) else None


def _symptoms(rule: CreditRule) -> Sequence[Symptom]:
    """With step rewards a run learns also where outcome rewards are all alike, or unknown."""
    return (ALL_TRUNCATED,) if rule.td_error == "process" else SYMPTOMS


def _check_process_rewards(args: LambdaGRPOConfig, funcs: Sequence[ProcessRewardFunc]) -> None:
    for func in funcs:
        check_process_reward_func(func)
    if args.td_error == "process" and not funcs:
        raise ValueError(
            "td_error='process' needs process_reward_funcs, and none were given. Pass "
            "process_reward_funcs=[...] to LambdaGRPOTrainer, or choose another td_error."
        )
    if funcs and args.td_error != "process":
        raise ValueError(
            f"process_reward_funcs were given, but td_error={args.td_error!r} does not read them. "
            "Set td_error='process', or leave them out."
        )


def _warn_of_vanishing_credit(args: LambdaGRPOConfig) -> None:
    """A normalised trace divides a TD error by its row sum: on few late tokens little is left."""
    traced = args.trace_style != "none" and args.trace_mode != "weight"
    if args.td_error in ("terminal", "process") and traced and args.normalize_trace:
        logger.warning(
            "td_error=%r puts TD errors on few tokens, and normalize_trace=True divides them by up "
            "to 1/(1-c): credit is about that much smaller than with normalize_trace=False, which "
            "is meant for these TD errors.",
            args.td_error,
        )
