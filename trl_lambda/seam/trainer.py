"""`SeamTrainer`: TRL's scoring and loss as hooks, so that subclasses override no private of TRL's.

`_credit` is a hook for a scored batch (tensors for the loss come out), `_plan_loss` says what the
loss shall see in place of the log-ratio and of the KL term, `_observe_loss` looks at what it saw.

The traced ratio needs no copy of TRL's loss. `_compute_loss` calls
`_get_per_token_logps_and_entropies` once and forms exp(logps − old): while the loss is computed,
that call hands back z, and zeros stand for `old`. A KL term of our own takes the place of TRL's in
the same way: TRL gets the log-probabilities themselves as its reference, whose KL is exactly 0.

Our own methods begin with an underscore and a word that TRL does not use, because users' subclasses
have names of their own; the contract's test compares them with TRL's.

Shape suffixes: B completions of this process, N of all processes, T completion positions,
P prompt positions, F reward functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from torch import Tensor

from ..console import get_logger
from ..functional.td_errors import StepRewards
from ..rollout import rollout_metrics
from ..scored_batch import ScoredBatch
from .loss_plan import LossPlan
from .loss_terms import LossScale, per_token_kl
from .scoring import ScoringTrainer
from .user_functions import (
    data_columns,
    function_name,
    gathered_steps,
    images_added,
    raise_everywhere,
    without_empty_completions,
)
from .vllm_cpu import leave_out_reference, mend_weight_sync

logger = get_logger(__name__)


@dataclass(frozen=True)
class Rewards:
    """Arguments of the outermost `_calculate_rewards`, and what it returned.

    Attributes:
        rewards_NF: those of all processes.
        steps: for each process reward function the steps of all N completions.
    """

    prompts: list
    completions: list
    lengths: list[int]
    rewards_NF: Tensor
    steps: list[list[StepRewards | None]]


class SeamTrainer(ScoringTrainer):
    """`GRPOTrainer` with hooks; subclasses override those and no private."""

    def __init__(self, *args, process_reward_funcs: Sequence = (), **kwargs):
        self.process_reward_funcs = list(process_reward_funcs)
        self._loss_plan: LossPlan | None = None
        self._own_columns: set[str] = set()
        self._told_of_extras: set[str] = set()
        super().__init__(*args, **kwargs)
        if self._vllm is not None:
            leave_out_reference(self._vllm)
            mend_weight_sync(self._vllm)
        if self.rollout_func is not None:
            self.rollout_func = without_empty_completions(self.rollout_func)

    # -- hooks ---------------------------------------------------------------------------------

    def _credit(self, batch: ScoredBatch) -> dict[str, Tensor]:
        """Tensors, first dimension B, to add to (or replace in) what the loss gets as `inputs`."""
        raise NotImplementedError

    def _rows_for_rewards(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows whose columns reward functions get; as they are, or with further columns."""
        return inputs

    def _plan_loss(self, inputs: dict[str, Any], mask_BT: Tensor) -> LossPlan | None:
        """The numbers that TRL's loss shall see for this micro-batch; None leaves it untouched."""
        raise NotImplementedError

    def _observe_loss(self, inputs: dict[str, Any], plan: LossPlan) -> None:
        """Called after a loss that had a plan, which holds what the loss saw by then."""

    # -- for subclasses ------------------------------------------------------------------------

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _log_mean(self, name: str, value: float) -> None:
        """Averages `value` into the next log; the same on all processes."""
        self._metrics[self._mode][name].append(value)

    def _log_largest(self, name: str, value: float) -> None:
        """The next log has the largest of these values (NaN counts as none)."""
        if not math.isnan(value):
            values = self._metrics[self._mode][name]
            # TRL logs the mean of this list, and the mean of one value is that value.
            values[:] = [max(value, *values)] if values else [value]

    def _show_in_completions_table(self, column: str, values_N: list[float]) -> None:
        """Fills a column of the completions table for the batch just scored, all processes' rows.

        The column `advantage` is TRL's own and replaced, any other is added.
        """
        if column != "advantage":
            self._own_columns.add(column)
            self._logs["extra"][column].extend(values_N)
            return
        shown = self._logs["advantages"]
        for _ in range(min(len(values_N), len(shown))):
            shown.pop()
        shown.extend(values_N)

    def _completions_table(self, count: int) -> dict[str, list]:
        """Columns of the batch just scored, `count` rows: rewards ("rewards/…") and extras."""
        columns = {f"rewards/{name}": column for name, column in self._logs["rewards"].items()}
        columns |= self._logs["extra"]
        return {name: list(column)[-count:] for name, column in columns.items()}

    # -- TRL's methods -------------------------------------------------------------------------

    def train(self, *args, **kwargs):
        """As TRL's; what an interrupted training had yet to log stays out of this one's logs."""
        for unlogged in (self._metrics["train"], self._pending_metrics, self._pending_extra_logs):
            unlogged.clear()
        return super().train(*args, **kwargs)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        error = None
        inputs = self._rows_for_rewards(inputs)
        try:
            rewards_NF = super()._calculate_rewards(
                inputs, prompts, completions, completion_ids_list
            )
        except Exception as raised:
            if not self._exchanges_reward_errors:
                raise
            error, rewards_NF = raised, self._rewards_of_none(len(prompts))
        self._check_finite(rewards_NF, error)
        return rewards_NF

    def _generate_and_score_completions(self, inputs):
        self._begin_batch()
        with self._rewards_seen() as seen, self._scoring(inputs):
            output = super()._generate_and_score_completions(inputs)
        self._log_rollout()
        output |= self._credit(self._scored_batch(inputs, output, seen[-1]))
        self._align_extras()
        return output

    def _generate(self, prompts):
        generated = super()._generate(prompts)
        self._await_old_pass(tool_masks=generated[2])
        return generated

    def _compute_loss(self, model, inputs):
        mask_BT = inputs["completion_mask"]
        if "tool_mask" in inputs:
            mask_BT = mask_BT * inputs["tool_mask"]
        plan = self._plan_loss(inputs, mask_BT)
        if plan is None:
            return super()._compute_loss(model, inputs)
        self._loss_plan = plan
        try:
            lengths_B = inputs["completion_mask"].sum(1)
            loss = super()._compute_loss(model, plan.inputs_of_loss(inputs, lengths_B))
        finally:
            self._loss_plan = None
        if plan.kl_weight_BT is not None:
            loss = loss + self._kl_term(plan, inputs)
        self._observe_loss(inputs, plan)
        return loss

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        plain = super()._get_per_token_logps_and_entropies
        found = self._share_old_pass(plain, *args, **kwargs) or plain(*args, **kwargs)
        logps_BT, entropy_BT, *others = found
        if self._loss_plan is not None:
            logps_BT = self._loss_plan.intercept(logps_BT, entropy_BT)
        return (logps_BT, entropy_BT, *others)

    # -- parts of the above --------------------------------------------------------------------

    @property
    def _exchanges_reward_errors(self) -> bool:
        """Whether all processes are sure to meet in the gather that ends `_calculate_rewards`.

        Not with a reward model: its forward pass may be a collective that the others wait in.
        """
        models = any(isinstance(func, torch.nn.Module) for func in self.reward_funcs)
        return self.accelerator.num_processes > 1 and not models

    def _log_probs(self, ids_CL: Tensor, mask_CL: Tensor, positions: int) -> Tensor:
        return self._get_per_token_logps_and_entropies(self.model, ids_CL, mask_CL, positions)[0]

    def _token_scores(self, ids_CL: Tensor, mask_CL: Tensor, positions: int) -> tuple:
        """Log-probabilities and entropies of the last positions."""
        return self._get_per_token_logps_and_entropies(
            self.model, ids_CL, mask_CL, positions, compute_entropy=True
        )[:2]

    def _log_rollout(self) -> None:
        """Metrics of a branched batch; takes what forks shared out of TRL's count of tokens."""
        if self._rollout is None:
            return
        metrics = rollout_metrics(gather_object([self._rollout.counts()]))
        for name, value in metrics.items():
            self._log_mean(name, value)
        self.state.num_input_tokens_seen -= int(metrics["rollout/shared_tokens"])
        self._metrics[self._mode]["num_tokens"] = [self.state.num_input_tokens_seen]

    def _complete_extras(self, count: int) -> None:
        """Gives each column that a reward function logs one value per completion of this process.

        TRL appends what was logged. A column with fewer values, or none in this batch, would hold
        those of other completions, of other processes and of older batches.
        """
        pending = self._pending_extra_logs
        for column in {*pending, *self._logs["extra"]} - self._own_columns:
            values = pending[column]
            if len(values) not in (0, count) and column not in self._told_of_extras:
                self._told_of_extras.add(column)
                logger.warning(
                    "log_extra(%r, …) got %d values for %d completions; it takes one for each, "
                    "None where there is none. Missing ones count as None, further ones are "
                    "dropped.",
                    column,
                    len(values),
                    count,
                    main_process_only=False,
                )
            pending[column] = [*values, *[None] * count][:count]

    def _align_extras(self) -> None:
        """Fills up a column that was logged for the first time, as far back as the table goes."""
        rows = len(self._logs["prompt"])
        for column in self._logs["extra"].values():
            column.extendleft([None] * (rows - len(column)))

    def _rewards_of_none(self, count: int) -> Tensor:
        """Joins that gather with rewards that no function may return: all then ask what it was."""
        shape = (count, len(self.reward_funcs))
        return gather(torch.full(shape, torch.inf, device=self.accelerator.device))

    def _kl_term(self, plan: LossPlan, inputs: dict[str, Any]) -> Tensor:
        """β·KL as TRL would have added it, weighted; logged where TRL would have logged it."""
        assert plan.logps_BT is not None
        assert plan.old_logps_BT is not None
        kl_BT = per_token_kl(
            plan.logps_BT,
            plan.reference_logps_BT,
            plan.old_logps_BT,
            bias_correction=self.args.use_bias_correction_kl,
        )
        scale = self._loss_scale(inputs)
        term = self.beta * scale.reduce(kl_BT * plan.kl_weight_BT, plan.mask_BT)
        totals = torch.stack([(kl_BT * plan.mask_BT).sum(), plan.mask_BT.sum()]).detach()
        kl_sum, tokens = self.accelerator.reduce(totals, reduction="sum").tolist()
        metrics = self._metrics[self._mode]
        metrics["kl"][-1] = kl_sum / max(tokens, 1.0)  # in the place of TRL's, which is 0
        policy_losses = metrics.get("policy_loss")
        if policy_losses:  # TRL logs it, KL included, where there is an entropy bonus
            policy_losses[-1] += self.accelerator.gather(term.detach()).mean().item()
        return term / scale.divisor

    def _loss_scale(self, inputs: dict[str, Any]) -> LossScale:
        training = self._mode == "train"
        accumulation = self.current_gradient_accumulation_steps if training else 1
        windows = self.args.steps_per_generation / accumulation if training else 1.0
        return LossScale(
            loss_type=self.loss_type,
            max_completion_length=self.max_completion_length,
            num_items_in_batch=inputs["num_items_in_batch"],
            num_processes=self.accelerator.num_processes,
            accumulation=accumulation,
            windows=windows,
        )

    @contextmanager
    def _rewards_seen(self) -> Iterator[list[Rewards]]:
        """Notes what TRL gets from the outermost `_calculate_rewards`, be it a user's override."""
        seen: list[Rewards] = []
        outermost = self._calculate_rewards
        # A method that replaces the class's on this trainer alone comes back afterwards.
        of_this_trainer = "_calculate_rewards" in vars(self)

        def observed(inputs, prompts, completions, completion_ids_list):
            rewards_NF = outermost(inputs, prompts, completions, completion_ids_list)
            self._check_finite(rewards_NF, None)
            lengths = [len(ids) for ids in completion_ids_list]
            columns = self._reward_columns(inputs)
            columns |= {
                "prompts": prompts,
                "completions": completions,
                "completion_ids": completion_ids_list,
            }
            steps = [gathered_steps(func, columns, lengths) for func in self.process_reward_funcs]
            self._complete_extras(len(prompts))
            seen.append(Rewards(prompts, completions, lengths, rewards_NF, steps))
            return rewards_NF

        self._calculate_rewards = observed
        try:
            yield seen
        finally:
            if of_this_trainer:
                self._calculate_rewards = outermost
            else:
                del self._calculate_rewards

    def _scored_batch(self, inputs, output, scored: Rewards) -> ScoredBatch:
        completion_mask, prompt_mask = output["completion_mask"], output["prompt_mask"]
        mask_BT = completion_mask * output.get("tool_mask", 1)
        B, T = completion_mask.shape
        lengths_B = torch.tensor(scored.lengths, device=completion_mask.device)
        # TRL masks out all tokens of a truncated completion: it leaves the counts.
        lengths_B = lengths_B * completion_mask.any(1)
        t = torch.arange(T, device=completion_mask.device)
        weights_F = self.reward_weights.to(scored.rewards_NF.device)
        reward_N = (scored.rewards_NF * weights_F).nansum(1)
        training = self._mode == "train"
        return ScoredBatch(
            completion_ids_BT=output["completion_ids"].masked_fill(t >= lengths_B[:, None], -1),
            prompt_ids_BP=output["prompt_ids"].masked_fill(prompt_mask == 0, -1),
            lengths_B=lengths_B,
            mask_BT=mask_BT.bool(),
            advantage_B=output["advantages"],
            reward_N=reward_N.masked_fill(scored.rewards_NF.isnan().all(1), torch.nan),
            steps=scored.steps,
            images_added=self._images_added(inputs, output),
            has_images="num_images" in output or "pixel_values" in output,
            first_row=self.accelerator.process_index * B,
            group_size=self.num_generations if training else self.num_generations_eval,
            prompts=scored.prompts,
            completions=scored.completions,
            columns=data_columns(inputs),
            branches=self._branches(),
        )

    def _images_added(self, inputs: list[dict[str, Any]], output: dict[str, Any]) -> bool:
        if not self.tools and self.environment_factories is None:
            return False  # on all processes: nothing to ask the others
        return any(gather_object([images_added(inputs, output.get("num_images"))]))

    def _reward_columns(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The keyword arguments that TRL gives a reward function, but for the completions."""
        columns = data_columns(inputs) | {
            "trainer_state": self.state,
            "log_extra": self._log_completion_extra,
            "log_metric": self._log_metric,
        }
        if self.environments is not None:
            columns["environments"] = self.environments
        return columns

    def _check_finite(self, rewards_NF: Tensor, error: Exception | None) -> None:
        infinite = rewards_NF.isinf().nonzero().tolist()
        if infinite:
            raise_everywhere(error)
            row, func = infinite[0]
            names = dict(enumerate(map(function_name, self.reward_funcs)))
            raise ValueError(
                f"The reward function {names.get(func, func)!r} returned "
                f"{rewards_NF[row, func].item()} for completion {row} of the batch; rewards must "
                "be finite. Return None to abstain."
            )
