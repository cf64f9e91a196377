"""The seam to TRL's scoring and loss: the privates of `GRPOTrainer` that credit needs, in one file.

`SeamTrainer` turns TRL's methods into hooks with names of ours: `credit` (a scored batch in,
tensors for the loss out) and `loss_plan` (what the loss shall see in place of the log-ratio and of
the KL term). `check_seam` compares TRL with what is assumed here when the package is imported.

The traced ratio needs no copy of TRL's loss. `_compute_loss` calls
`_get_per_token_logps_and_entropies` once and forms exp(logps − old): while the loss is computed,
that call hands back z, and zeros stand for `old`.

Shape suffixes: B completions of this process, N of all processes, T completion positions,
P prompt positions, F reward functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from torch import Tensor
from trl import GRPOTrainer

from ..scored_batch import ScoredBatch
from .loss_terms import LossScale, per_token_kl
from .user_functions import (
    gathered_steps,
    images_added,
    raise_everywhere,
    without_empty_completions,
)
from .vllm_cpu import leave_out_reference, mend_weight_sync


@dataclass
class LossPlan:
    """What one call of TRL's loss shall see.

    Attributes:
        trace: maps the log-ratio x to z, or None to leave the ratio alone.
        kl_weight_BT: weight of the KL term (ones where it is unweighted), or None to leave TRL's.
        logps_BT: the raw log-probabilities, once the loss has asked for them.
        z_BT: what stood for the log-ratio.
    """

    trace: Any
    kl_weight_BT: Tensor | None
    mask_BT: Tensor
    old_logps_BT: Tensor | None
    logps_BT: Tensor | None = None
    z_BT: Tensor | None = None

    def intercept(self, logps_BT: Tensor) -> Tensor:
        """Takes log π_θ on its way into the loss and hands on what shall stand in its place."""
        self.logps_BT = logps_BT
        if self.old_logps_BT is None:
            self.old_logps_BT = logps_BT.detach()
        log_ratio_BT = logps_BT - self.old_logps_BT
        self.z_BT = log_ratio_BT if self.trace is None else self.trace(log_ratio_BT)
        return logps_BT if self.trace is None else self.z_BT


class SeamTrainer(GRPOTrainer):
    """`GRPOTrainer` with hooks; subclasses override those and no private."""

    def __init__(self, *args, process_reward_funcs: Sequence = (), **kwargs):
        self.process_reward_funcs = list(process_reward_funcs)
        self._scored: tuple[Tensor, list[int], list] | None = None
        self._loss_plan: LossPlan | None = None
        super().__init__(*args, **kwargs)
        if self.use_vllm:
            leave_out_reference(self.vllm_generation)
            mend_weight_sync(self.vllm_generation)
        if self.rollout_func is not None:
            self.rollout_func = without_empty_completions(self.rollout_func)

    # -- hooks ---------------------------------------------------------------------------------

    def credit(self, batch: ScoredBatch) -> dict[str, Tensor]:
        """Tensors, first dimension B, to add to (or replace in) what the loss gets as `inputs`."""
        raise NotImplementedError

    def loss_plan(self, inputs: dict[str, Any], mask_BT: Tensor) -> LossPlan | None:
        """What TRL's loss shall see for this micro-batch; None leaves it untouched."""
        raise NotImplementedError

    def observe_loss(self, inputs: dict[str, Any], plan: LossPlan) -> None:
        """Called after a loss that had a plan, which holds what the loss saw by then."""

    # -- for subclasses ------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        return "train" if self.model.training else "eval"

    def log_metric(self, name: str, value: float) -> None:
        """Averages `value` into the next log; the same on all processes."""
        self._metrics[self.mode][name].append(value)

    def log_maximum(self, name: str, value: float) -> None:
        """The next log has the largest of these values (NaN counts as none)."""
        if not math.isnan(value):  # TRL averages a list: one of a single value stays what it is
            values = self._metrics[self.mode][name]
            values[:] = [max(value, *values)] if values else [value]

    def show_in_completions_table(self, column: str, values_N: list[float]) -> None:
        """Fills a column of the completions table for the batch just scored, all processes' rows.

        The column `advantage` is TRL's own and replaced, any other is added.
        """
        if column != "advantage":
            self._logs["extra"][column].extend(values_N)
            return
        shown = self._logs["advantages"]
        for _ in range(min(len(values_N), len(shown))):
            shown.pop()
        shown.extend(values_N)

    def completions_table(self, count: int) -> dict[str, list]:
        """The last `count` rows of the completions table: rewards ("rewards/…") and extras."""
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
        try:
            rewards_NF = super()._calculate_rewards(
                inputs, prompts, completions, completion_ids_list
            )
        except Exception as raised:
            if not self._exchanges_reward_errors:
                raise
            error, rewards_NF = raised, self._rewards_of_none(len(prompts))
        self._check_finite(rewards_NF, error)
        lengths = [len(ids) for ids in completion_ids_list]
        columns = self._reward_columns(inputs)
        columns |= {
            "prompts": prompts,
            "completions": completions,
            "completion_ids": completion_ids_list,
        }
        steps = [gathered_steps(func, columns, lengths) for func in self.process_reward_funcs]
        self._scored = (rewards_NF, lengths, steps)
        return rewards_NF

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        assert self._scored is not None
        rewards_NF, lengths, steps = self._scored
        self._scored = None
        output |= self.credit(self._scored_batch(inputs, output, rewards_NF, lengths, steps))
        return output

    def _compute_loss(self, model, inputs):
        mask_BT = inputs["completion_mask"]
        if "tool_mask" in inputs:
            mask_BT = mask_BT * inputs["tool_mask"]
        plan = self.loss_plan(inputs, mask_BT)
        if plan is None:
            return super()._compute_loss(model, inputs)
        given = inputs
        if plan.trace is not None:
            # A copy: the buffered inputs serve the next iteration too.
            zeros_BT = torch.zeros(mask_BT.shape, device=mask_BT.device)
            inputs = {**inputs, "old_per_token_logps": zeros_BT}
        beta = self.beta
        self._loss_plan, self.beta = plan, 0.0 if plan.kl_weight_BT is not None else beta
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self._loss_plan, self.beta = None, beta
        if plan.kl_weight_BT is not None:
            loss = loss + self._kl_term(plan, inputs)
        self.observe_loss(given, plan)
        return loss

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        logps_BT, entropies_BT, aux_loss = super()._get_per_token_logps_and_entropies(
            *args, **kwargs
        )
        if self._loss_plan is not None:
            logps_BT = self._loss_plan.intercept(logps_BT)
        return logps_BT, entropies_BT, aux_loss

    # -- parts of the above --------------------------------------------------------------------

    @property
    def _exchanges_reward_errors(self) -> bool:
        """Whether all processes are sure to meet in the gather that ends `_calculate_rewards`.

        Not with a reward model: its forward pass may be a collective that the others wait in.
        """
        models = any(isinstance(func, torch.nn.Module) for func in self.reward_funcs)
        return self.accelerator.num_processes > 1 and not models

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
            inputs["ref_per_token_logps"],
            plan.old_logps_BT,
            bias_correction=self.args.use_bias_correction_kl,
        )
        scale = self._loss_scale(inputs)
        term = self.beta * scale.reduce(kl_BT * plan.kl_weight_BT, plan.mask_BT)
        totals = torch.stack([(kl_BT * plan.mask_BT).sum(), plan.mask_BT.sum()]).detach()
        kl_sum, tokens = self.accelerator.reduce(totals, reduction="sum").tolist()
        self.log_metric("kl", kl_sum / max(tokens, 1.0))
        policy_losses = self._metrics[self.mode].get("policy_loss")
        if policy_losses:  # TRL logs it, KL included, where there is an entropy bonus
            policy_losses[-1] += self.accelerator.gather(term.detach()).mean().item()
        return term / scale.divisor

    def _loss_scale(self, inputs: dict[str, Any]) -> LossScale:
        training = self.mode == "train"
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

    def _scored_batch(self, inputs, output, rewards_NF, lengths, steps) -> ScoredBatch:
        completion_mask, prompt_mask = output["completion_mask"], output["prompt_mask"]
        mask_BT = completion_mask * output.get("tool_mask", 1)
        B, T = completion_mask.shape
        lengths_B = torch.tensor(lengths, device=completion_mask.device)
        # TRL masks out all tokens of a truncated completion: it leaves the counts.
        lengths_B = lengths_B * completion_mask.any(1)
        t = torch.arange(T, device=completion_mask.device)
        weights_F = self.reward_weights.to(rewards_NF.device)
        reward_N = (rewards_NF * weights_F).nansum(1)
        return ScoredBatch(
            completion_ids_BT=output["completion_ids"].masked_fill(t >= lengths_B[:, None], -1),
            prompt_ids_BP=output["prompt_ids"].masked_fill(prompt_mask == 0, -1),
            lengths_B=lengths_B,
            mask_BT=mask_BT.bool(),
            advantage_B=output["advantages"],
            reward_N=reward_N.masked_fill(rewards_NF.isnan().all(1), torch.nan),
            steps=steps,
            images_added=self._images_added(inputs, output),
            first_row=self.accelerator.process_index * B,
            group_size=self.num_generations if self.mode == "train" else self.num_generations_eval,
        )

    def _images_added(self, inputs: list[dict[str, Any]], output: dict[str, Any]) -> bool:
        if not self.tools and self.environment_factories is None:
            return False  # on all processes: nothing to ask the others
        return any(gather_object([images_added(inputs, output)]))

    def _reward_columns(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The keyword arguments that TRL gives a reward function, but for the completions."""
        names = [n for n in inputs[0] if n not in ("prompt", "completion", "completion_ids")]
        columns: dict[str, Any] = {name: [row[name] for row in inputs] for name in names}
        columns |= {
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
            raise ValueError(
                f"The reward function {self.reward_func_names[func]!r} returned "
                f"{rewards_NF[row, func].item()} for completion {row} of the batch; rewards must "
                "be finite. Return None to abstain."
            )
