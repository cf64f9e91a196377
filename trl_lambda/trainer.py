"""`LambdaGRPOTrainer`: wires the method into TRL's GRPO.

From a reward to the loss: `SeamTrainer` hands over a scored batch, `_credit` gathers whole groups
where they straddle processes, `_credit_batch` makes what a TD error reads, `assign_credit` makes
the credit of each token, and TRL's loss takes it for its advantages.

Shape suffixes: B completions of this process, N of all processes, T completion positions, W
completions of groups that have a member on this process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from logging import WARNING
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import TrainOutput
from trl import GRPOConfig

from . import host
from .batch_plan import BatchPlan, plan_batches
from .checkpoints.reference import sync_taken_from_trl
from .checkpoints.trainer import ResumableTrainer
from .config import LambdaGRPOConfig, batch_sizes, check_config, trl_fields_filled, trl_values
from .console import get_logger
from .credit import Z_LIMIT, Credit, assign_credit, traced_log_ratio
from .functional import reward_denominator
from .functional.td_errors import Steps, normalize_steps, step_segments
from .groups import WholeGroups, whole_groups
from .health.answer_probe import PROBE_KNOWS_LITTLE
from .health.dropout import dropout_warning
from .health.no_learning import ALL_TRUNCATED, SYMPTOMS, Symptom, WarnOfNoLearning
from .health.sampling_mismatch import SamplingMismatchWarning
from .health.vanishing_credit import vanishing_credit
from .hub import HubTrainer
from .methods import OPTIONS
from .observer import CreditObserver
from .probe.trainer import ProbingTrainer, check_answers
from .rollout import BranchRule, BranchSizes
from .rule import IMAGES_IN_COMPLETIONS, CreditRule
from .scored_batch import ScoredBatch
from .seam.branching import refuse_branching
from .seam.liger import refuse_liger_loss
from .seam.loss_plan import LossPlan
from .seam.ratio import RatioRule
from .seam.trainer import SeamTrainer
from .seam.user_functions import (
    RaisedElsewhereError,
    check_process_reward_func,
    raise_everywhere,
)
from .seam.vllm_cpu import refuse_sleep_on_cpu
from .td_errors import CreditBatch, TDErrorFunction, is_built_in, td_error_name
from .templates import with_openings

logger = get_logger(__name__)

ProcessRewardFunc = Callable[..., Sequence[Sequence[tuple[int, float]] | None]]


class LambdaGRPOTrainer(ProbingTrainer, HubTrainer, ResumableTrainer, SeamTrainer):
    """`GRPOTrainer` with credit for single tokens; takes all that it takes, in the same order.

    Args:
        model, reward_funcs, …, environment_factory: as for `GRPOTrainer`. `args` is a
            `LambdaGRPOConfig` or any `GRPOConfig`; one without our fields trains the default
            method with its own `loss_type` and `scale_rewards`.
        process_reward_funcs: one callable or several, for `td_error="process"`. Each is called with
            `prompts`, `completions`, `completion_ids` and the data set's columns (like a reward
            function) and returns for each completion a list of (index of the token that ends the
            step, reward), or None to abstain. Each function's rewards are normalised by themselves,
            then added. Outcome rewards (`reward_funcs`) are logged; they are trained on as well, as
            a TD error on the last policy token, if `args.reward_weights` is set.
        td_error: a function (batch: `CreditBatch`) -> `(B, T)` TD errors, in the place of
            `args.td_error`; see `trl_lambda.td_errors`.

    Raises:
        ValueError: settings that mean nothing (see `LambdaGRPOConfig`), process rewards without
            `td_error="process"` or the other way round.
    """

    _tag_names = ["trl", "trl-lambda", "grpo"]  # noqa: RUF012 (TRL's attribute, TRL's type)
    _name = "LambdaGRPO"
    config_fields_shown = ("method", *OPTIONS)

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
        tools: list[Callable] | None = None,
        rollout_func: Callable | None = None,
        environment_factory: Any = None,
        *,
        process_reward_funcs: ProcessRewardFunc | Sequence[ProcessRewardFunc] | None = None,
        td_error: TDErrorFunction | None = None,
    ):
        args = args if args is not None else _named_after(model)
        self._td_error = td_error
        self._method = check_config(args, td_error)  # values may have been set since it was built
        check_answers(self._rule, args, train_dataset)  # before a model is loaded
        if process_reward_funcs is None:
            process_reward_funcs = []
        elif callable(process_reward_funcs):
            process_reward_funcs = [process_reward_funcs]
        _check_process_rewards(self._rule, process_reward_funcs)
        refuse_liger_loss(args)
        refuse_sleep_on_cpu(args)
        if self._method.branching is not None:
            refuse_branching(args, rollout_func)
        with sync_taken_from_trl(args) as synced, trl_fields_filled(args, self._method):
            super().__init__(
                model,
                reward_funcs,
                args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                reward_processing_classes=reward_processing_classes,
                callbacks=callbacks,
                optimizers=optimizers,
                quantization_config=quantization_config,
                peft_config=peft_config,
                tools=tools,
                rollout_func=rollout_func,
                environment_factory=environment_factory,
                process_reward_funcs=process_reward_funcs,
            )
        self._make_probe(self._rule)
        if synced:
            self._move_reference()
        for warning in (vanishing_credit(self._rule), dropout_warning(self.model, self._rule)):
            if warning:
                logger.warning(warning)
        self.add_callback(_MethodOfTheConfig(self))  # first: the credit log writes the method down
        self._observer = CreditObserver(self)
        if not any(isinstance(one, WarnOfNoLearning) for one in host.callbacks(self)):
            self.add_callback(WarnOfNoLearning(_symptoms(self._rule)))
        if self.use_vllm:
            self.add_callback(SamplingMismatchWarning())

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As TRL's; prints batch plan and method first, unless `args.log_level` wants errors only.

        Raises:
            ValueError: batch sizes that do not fit the data set; the message has the nearest that
                do.
        """
        plan = self._batch_plan()
        if self.is_world_process_zero() and self.args.get_process_log_level() <= WARNING:
            lines = [str(plan), self._method_line()]
            if self._probe is not None:
                lines.append(f"Answer probes: {self._way_of_scoring()}.")
            print("\n".join(lines), flush=True)
        return super().train(*args, **kwargs)

    # -- the method --------------------------------------------------------------------------

    @property
    def _rule(self) -> CreditRule:
        return self._method.credit

    def _method_values(self) -> dict[str, Any]:
        """The method's name and, by option, what trains."""
        values = self._method.values() | trl_values(self.args, self._method)
        return {"method": self._method.name, **values}

    def _credit_settings(self) -> dict[str, Any]:
        """A window that was saved under another method is generated anew."""
        return self._method_values()

    def _method_line(self) -> str:
        """One line: the changes that the method makes to TRL's GRPO."""
        trained = trl_values(self.args, self._method)
        return f"LambdaGRPOTrainer: {self._method.describe(trained)}"

    @property
    def _branching(self) -> tuple[BranchRule, BranchSizes] | None:
        rule = self._method.branching
        return None if rule is None else (rule, rule.sizes(self.num_generations))

    def _take_method(self) -> None:
        """Reads the method from the config again: a search may have set fields of it."""
        self._method = check_config(self.args, self._td_error)
        for name, value in trl_values(self.args, self._method).items():
            setattr(self, name, value)
        self._make_probe(self._rule)

    def _credit(self, batch: ScoredBatch) -> dict[str, Tensor]:
        if self._rule.shares_prefixes and batch.images_added:
            raise NotImplementedError(IMAGES_IN_COMPLETIONS)
        groups = whole_groups(self.accelerator, batch)
        sizes_WT = groups.sets.sizes()
        signal = self._credit_batch(batch, groups, groups.local_sizes(sizes_WT))
        credit = self._assigned(signal)
        tensors = self._tensors(batch, credit)
        return tensors | self._observer.observe_credit(
            self._rule, batch, signal, credit, sizes_WT[groups.begun], tensors.get("advantages")
        )

    def _credit_batch(
        self, batch: ScoredBatch, groups: WholeGroups, sizes_BT: Tensor
    ) -> CreditBatch:
        """The batch that the TD error reads; built-in ones get only what they ask for."""
        rule, group_N = self._rule, batch.group_ids_N
        steps = self._normalized_steps(batch) if rule.entry.reads_steps else None
        reads_values = rule.entry.shares_prefixes or not is_built_in(rule.td_error)
        trains_outcome = not rule.entry.reads_steps or self.args.reward_weights is not None
        advantage_B = batch.advantage_B
        made = CreditBatch(
            mask_BT=batch.mask_BT,
            advantage_B=advantage_B if trains_outcome else torch.zeros_like(advantage_B),
            sizes_BT=sizes_BT,
            values_BT1=groups.local_values() if reads_values else None,
            denominator_B=self._denominator(batch) if reads_values else None,
            branch_weight_BT=self._branch_weights(groups),
            sibling_gain_BT=self._sibling_gains(groups),
            steps=steps,
            segment_BT=step_segments(steps, batch.mask_BT) if steps and rule.traces_steps else None,
            reward_B=batch.reward_N[batch.rows],
            group_B=group_N[batch.rows],
            group_size=batch.group_size,
            completion_ids_BT=batch.completion_ids_BT,
            prompt_ids_BP=batch.prompt_ids_BP,
            lengths_B=batch.lengths_B,
            reward_N=batch.reward_N,
            group_N=group_N,
            rows=batch.rows,
            groups=groups,
            prompts=batch.prompts,
            completions=batch.completions,
            columns=batch.columns,
            _decode=lambda ids: self.processing_class.decode(ids, skip_special_tokens=True),
            _score=lambda asked: self._continuation_log_probs(batch, asked),
        )
        if self._probe is None:
            return made
        return self._with_probes(batch, made, self._denominator(batch))

    def _branch_weights(self, groups: WholeGroups) -> Tensor | None:
        rule = self._method.branching
        return groups.local_branch_weights() if rule and rule.weights == "branches" else None

    def _sibling_gains(self, groups: WholeGroups) -> Tensor | None:
        if not self._rule.entry.compares_siblings:
            return None
        return groups.local_sibling_gains(self._rule.sibling_shrinkage)

    def _assigned(self, signal: CreditBatch) -> Credit:
        """The credit; what a user's TD error raises on one process is raised on all."""
        if is_built_in(self._rule.td_error):
            return assign_credit(self._rule, signal)
        credit = error = None
        try:
            credit = assign_credit(self._rule, signal)
        except RaisedElsewhereError:
            raise
        except Exception as raised:
            error = raised
        raise_everywhere(error)
        assert credit is not None
        return credit

    def _tensors(self, batch: ScoredBatch, credit: Credit) -> dict[str, Tensor]:
        """The tensors in the place of TRL's advantages, if any, and the KL term's weight."""
        rule = self._rule
        if not self._method.token_level:
            if rule.advantage_floor is None:
                return {}
            return {"advantages": batch.advantage_B.clamp(min=rule.advantage_floor)}
        if rule.process_set_weighting and self.beta != 0.0:
            return {"advantages": credit.advantage_BT, "kl_weight": credit.weight_BT}
        return {"advantages": credit.advantage_BT}

    def _denominator(self, batch: ScoredBatch) -> Tensor:
        """`(B,)`: what TRL divided A_i by; infinite where no reward is known: nothing is learnt."""
        denominator_N = reward_denominator(
            batch.reward_N, batch.group_ids_N, scale=self.scale_rewards
        )
        return denominator_N.masked_fill(batch.reward_N.isnan(), torch.inf)[batch.rows]

    def _normalized_steps(self, batch: ScoredBatch) -> Steps:
        parts = [
            normalize_steps(steps, batch.group_ids_N, scale=self.scale_rewards)
            for steps in batch.steps
        ]
        return Steps.concatenate(parts).rows(batch.rows)

    def _rows_for_rewards(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return with_openings(inputs, self.processing_class, self.args.chat_template_kwargs)

    # -- the loss ------------------------------------------------------------------------------

    def _plan_loss(self, inputs: dict[str, Any], mask_BT: Tensor) -> LossPlan | None:
        kl_weight_BT = inputs.get("kl_weight")
        if self._rule.traces_ratio and self.beta != 0.0 and kl_weight_BT is None:
            kl_weight_BT = torch.ones_like(mask_BT)
        watched = self._observer.watches(inputs)
        if not (self._rule.traces_ratio or kl_weight_BT is not None or watched):
            return None

        def trace(log_ratio_BT: Tensor) -> Tensor:
            z_BT = traced_log_ratio(self._rule, log_ratio_BT, mask_BT)
            self._observer.observe_ratio(z_BT.detach(), mask_BT)
            return z_BT.clamp(-Z_LIMIT, Z_LIMIT)

        return LossPlan(
            trace=trace if self._rule.traces_ratio else None,
            kl_weight_BT=kl_weight_BT,
            mask_BT=mask_BT,
        )

    @property
    def _ratio_rule(self) -> RatioRule:
        """The rule by which TRL's loss clips the ratio."""
        return RatioRule(
            loss_type=self.loss_type,
            epsilon_low=self.epsilon_low,
            epsilon_high=self.epsilon_high,
            delta=self.args.delta,
            level=self.importance_sampling_level,
        )

    def _observe_loss(self, inputs: dict[str, Any], plan: LossPlan) -> None:
        self._observer.observe_loss(inputs, plan)

    def _batch_plan(self) -> BatchPlan:
        """The plan of the batch sizes; raises ValueError if they do not fit the data set."""
        return plan_batches(
            batch_sizes(
                self.args,
                num_processes=self.accelerator.num_processes,
                num_prompts=_rows(self.train_dataset),
                num_eval_prompts=_rows(self.eval_dataset),
            )
        )


class _MethodOfTheConfig(TrainerCallback):
    """A hyperparameter search sets fields of the config when a trial begins, after `__init__`."""

    def __init__(self, trainer: LambdaGRPOTrainer):
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer._take_method()


def _named_after(model: Any) -> LambdaGRPOConfig:
    name = model if isinstance(model, str) else model.config._name_or_path
    return LambdaGRPOConfig(f"{(name or 'model').split('/')[-1]}-LambdaGRPO")


def _rows(data: Any) -> int | None:
    """How many there are, of all sets if there are several; None if a stream is among them."""
    if isinstance(data, dict):
        counts = [_rows(part) for part in data.values()]
        return None if None in counts else sum(counts)
    return len(data) if isinstance(data, Sized) else None


def _symptoms(rule: CreditRule) -> Sequence[Symptom]:
    """With step rewards a run learns also where outcome rewards are all alike, or unknown."""
    if rule.entry.probes:
        return (*SYMPTOMS, PROBE_KNOWS_LITTLE)
    return (ALL_TRUNCATED,) if rule.entry.reads_steps else SYMPTOMS


def _check_process_rewards(rule: CreditRule, funcs: Sequence[ProcessRewardFunc]) -> None:
    for func in funcs:
        check_process_reward_func(func)
    if rule.entry.reads_steps and not funcs:
        raise ValueError(
            "td_error='process' needs process_reward_funcs, and none were given. Pass "
            "process_reward_funcs=[...] to LambdaGRPOTrainer, or choose another td_error."
        )
    if funcs and not rule.entry.reads_steps:
        raise ValueError(
            f"process_reward_funcs were given, but td_error={td_error_name(rule.td_error)!r} does "
            "not read them. Set td_error='process', or leave them out."
        )
