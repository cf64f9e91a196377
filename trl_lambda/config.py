"""`LambdaGRPOConfig`: our fields, their help, and what is refused before anything is trained."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any

from trl import GRPOConfig

from .batch_plan.sizes import BatchSizes, batch_fault
from .credit import CreditRule, TDError, TraceMode, TraceStyle
from .options import is_number, one_of, value_fault

TOKEN_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")
SEQUENCE_LOSSES = ("luspo", "vespo")
LOSS_TYPES = (*TOKEN_LOSSES, *SEQUENCE_LOSSES)


@dataclass
class LambdaGRPOConfig(GRPOConfig):
    """`GRPOConfig` with the credit of single tokens.

    How the options interact: `td_error` says what a token newly tells about the reward (δ), the
    trace (`trace_style`, decay c = `trace_gamma`·`trace_lambda`) spreads it over time, and
    `trace_mode` says where the trace acts: on the advantage (A = Wᵀδ), on the log-ratio inside the
    loss (z = Wx), or as a weight on the loss's terms. `process_set_weighting` then divides each
    token's term by the number of completions that share its prefix.

    `trace_style="none"`, `td_error="group"`, `process_set_weighting=False`, `advantage_floor=None`
    is TRL's GRPO, bit for bit. One default of `GRPOConfig` differs: `loss_type="grpo"`. The
    defaults are what did best in `recipes/compare.py`; the README says on what.

    Raises:
        ValueError: a value out of range, or a combination that means nothing; the message names
            the field, its value and the remedy.
    """

    loss_type: str = field(
        default="grpo",
        metadata={
            "help": "TRL's loss type. Default here 'grpo' (mean over the tokens of a completion), "
            "in TRL 'dapo'. Token-level credit works with grpo, bnpo, dr_grpo, dapo, cispo, sapo."
        },
    )
    td_error: TDError = field(
        default="group",
        metadata={
            "help": "TD error of a token. 'group' (default): the group-normalised reward on every "
            "token (GRPO-λ). 'terminal': on the last token only, the λ-return of an outcome reward "
            "with V = 0. 'tree': change of the mean reward of the completions that share the "
            "prefix, on top of the group-normalised reward (TEMPO, and with λ > 0 the λ-return of "
            "that critic). 'process': normalised rewards of steps from process_reward_funcs "
            "(DeepSeekMath); outcome rewards are then trained on only if reward_weights is set."
        },
    )
    trace_style: TraceStyle = field(
        default="recent",
        metadata={
            "help": "Eligibility trace over tokens. 'recent' (default): weight c^(t-k) on token k "
            "at the term t. 'both': max(c^(t-k), c^k), first tokens stay eligible (the better "
            "one in the GRPO-λ paper). 'none': no trace."
        },
    )
    trace_mode: TraceMode = field(
        default="advantage",
        metadata={
            "help": "Where the trace acts. 'advantage' (default): on the TD errors, A = Wᵀδ; costs "
            "nothing in the loss and composes exactly with process sets. 'ratio': on the log-ratio "
            "in the loss, the paper's ε-trace. 'weight': row sums of the trace weigh the policy "
            "term, the paper's ε-weight."
        },
    )
    trace_lambda: float = field(
        default=0.99,
        metadata={
            "help": "λ in [0, 1]; with trace_gamma the decay c = γ·λ. Default 0.99, the GRPO-λ "
            "paper's. 0 with 'recent' is no trace."
        },
    )
    trace_gamma: float = field(
        default=1.0, metadata={"help": "γ in [0, 1], the other factor of the decay. Default 1."}
    )
    normalize_trace: bool = field(
        default=True,
        metadata={
            "help": "Divide the rows of the trace by their sums (default), so that the gradient "
            "keeps the size of GRPO's. False is the paper's trace: gradients up to 1/(1-c) times "
            "larger, so a smaller learning rate, and clipping far sooner. With TD errors on few "
            "tokens ('terminal', 'process') there is nothing to even out: use False."
        },
    )
    advantage_floor: float | None = field(
        default=-0.1,
        metadata={
            "help": "Lower bound (≤ 0) of the group-normalised reward, before any trace; default "
            "-0.1, the GRPO-λ paper's. None: no bound. td_error='process' trains on step rewards, "
            "which it does not touch."
        },
    )
    process_set_weighting: bool = field(
        default=False,
        metadata={
            "help": "Divide each token's term (policy and KL) by the number of completions of the "
            "group that share its prefix (λ-GRPO). Default False."
        },
    )

    credit_log_steps: int | None = field(
        default=None,
        metadata={
            "help": "Write the credit of single tokens of sampled groups every so many optimiser "
            "steps to <output_dir>/credit_log. None (default): every logging_steps if "
            "log_completions is on, else never."
        },
    )
    credit_log_max_mb: float = field(
        default=50.0,
        metadata={
            "help": "Megabytes the credit log may take on disk (default 50); the oldest records "
            "are dropped, and counted."
        },
    )

    def __post_init__(self):
        given = (self.steps_per_generation, self.generation_batch_size)  # TRL fills them in
        try:
            super().__post_init__()
        except (ValueError, ZeroDivisionError):
            self._check_batch_sizes(*given)  # TRL's own message has no remedy
            raise
        self._check_batch_sizes(*given)
        self.check_method()

    @classmethod
    def from_grpo_config(cls, config: GRPOConfig) -> LambdaGRPOConfig:
        """All values of `config`, also where our default differs; our own fields at their defaults.

        Raises:
            ValueError: a value of `config` that does not go with our defaults.
        """
        converted = cls.__new__(cls)
        converted.__dict__.update(copy.copy(config.__dict__))
        for own in own_fields():
            setattr(converted, own, cls.__dataclass_fields__[own].default)
        converted.check_method()
        return converted

    @property
    def credit_rule(self) -> CreditRule:
        return CreditRule(
            td_error=self.td_error,
            trace_style=self.trace_style,
            trace_mode=self.trace_mode,
            decay=self.trace_gamma * self.trace_lambda,
            normalize_trace=self.normalize_trace,
            advantage_floor=None if self.td_error == "process" else self.advantage_floor,
            process_set_weighting=self.process_set_weighting,
        )

    def batch_sizes(self, **known: Any) -> BatchSizes:
        """What `plan_batches` plans with; `known` are sizes that only the trainer knows."""
        steps = self.steps_per_generation
        sizes = BatchSizes(
            per_device_train_batch_size=self.per_device_train_batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            # Equal to the accumulation it follows from it, as far as one can tell.
            steps_per_generation=None if steps == self.gradient_accumulation_steps else steps,
            num_generations=self.num_generations,
            num_iterations=self.num_iterations,
            max_completion_length=self.max_completion_length,
            num_processes=self.world_size,
            max_steps=self.max_steps,
            num_train_epochs=self.num_train_epochs,
        )
        if self.do_eval and self.eval_strategy != "no":
            sizes = replace(
                sizes,
                per_device_eval_batch_size=self.per_device_eval_batch_size,
                num_generations_eval=self.num_generations_eval,
            )
        return replace(sizes, **known)

    def _check_batch_sizes(self, steps: int | None, generation_batch: int | None) -> None:
        # Before the processes are known none of the sizes has been looked at.
        if not hasattr(self, "distributed_state") or None not in (steps, generation_batch):
            return
        sizes = self.batch_sizes(steps_per_generation=steps, generation_batch_size=generation_batch)
        if fault := batch_fault(sizes):
            raise ValueError(fault) from None

    @property
    def steps_between_records(self) -> float | None:
        """Optimiser steps between two records of the credit log; None for no log.

        Below 1 it is a share of the training's steps, as `logging_steps` may be.
        """
        if self.credit_log_steps is not None or not self.log_completions:
            return self.credit_log_steps
        return self.logging_steps

    def check_method(self) -> None:
        """Raises ValueError for values out of range and combinations that mean nothing."""
        self._check_values()
        self._check_processes()
        self._check_trace()
        self._check_td_error()
        if self.credit_rule.token_level:
            self._check_token_level()

    def _check_values(self) -> None:
        for name in (*method_fields(), "scale_rewards"):
            if fault := value_fault(name, getattr(self, name)):
                self._refuse(name, fault)
        for name, choices in (
            ("loss_type", LOSS_TYPES),
            ("multi_objective_aggregation", ("sum_then_normalize", "normalize_then_sum")),
        ):
            if getattr(self, name) not in choices:
                self._refuse(name, one_of(choices))
        steps = self.credit_log_steps
        if steps is not None and not (isinstance(steps, int) and steps >= 1):
            self._refuse("credit_log_steps", "it must be a whole number ≥ 1, or None")
        if not (is_number(self.credit_log_max_mb) and self.credit_log_max_mb > 0):
            self._refuse("credit_log_max_mb", "it must be a number of megabytes > 0")

    def _check_processes(self) -> None:
        if self.world_size > 1 and not self.accelerator_config.even_batches:
            raise ValueError(
                "accelerator_config: even_batches=False leaves a process with fewer rows than the "
                "others at the end of an evaluation, or with none, and the others then wait for it "
                "without end; set even_batches to True."
            )

    def _check_trace(self) -> None:
        if self.trace_style != "none":
            if self.trace_mode == "ratio" and self.top_entropy_quantile < 1.0:
                self._refuse(
                    "top_entropy_quantile",
                    "with trace_mode='ratio' a token that it masks would still learn through the "
                    "trace of later ones; set it to 1.0, or use trace_mode='advantage'",
                )
            return
        for name in ("trace_mode", "trace_lambda", "trace_gamma", "normalize_trace"):
            if getattr(self, name) != _default(name):
                self._refuse(
                    name,
                    "with trace_style='none' there is no trace for it to act on; leave it at "
                    f"{_default(name)!r}, or set trace_style to 'recent' or 'both'",
                )

    def _check_td_error(self) -> None:
        if self.td_error == "tree":
            if self.trace_style != "none" and self.trace_mode != "advantage":
                self._refuse(
                    "trace_mode",
                    "td_error='tree' adds the untraced group-normalised reward to the traced TD "
                    "errors, which only trace_mode='advantage' can; use that",
                )
            if self.multi_objective_aggregation == "normalize_then_sum":
                self._refuse(
                    "multi_objective_aggregation",
                    "td_error='tree' needs one reward and one deviation per completion; use "
                    "'sum_then_normalize'",
                )
        floor_told = self.advantage_floor not in (None, _default("advantage_floor"))
        if self.td_error == "process" and floor_told:
            self._refuse(
                "advantage_floor",
                "it bounds the group-normalised outcome reward, and td_error='process' trains on "
                "step rewards; leave it out, or set it to None",
            )

    def _check_token_level(self) -> None:
        plain = (
            "or train without token-level credit (trace_style='none', td_error='group', "
            "process_set_weighting=False)"
        )
        if self.importance_sampling_level != "token":
            self._refuse(
                "importance_sampling_level",
                "one ratio per sequence leaves nothing for token-level credit to act on; use "
                f"'token', {plain}",
            )
        if self.loss_type in SEQUENCE_LOSSES:
            self._refuse(
                "loss_type",
                f"it is a sequence-level loss; use one of {', '.join(TOKEN_LOSSES)}, {plain}",
            )
        if self.off_policy_mask_threshold is not None:
            self._refuse(
                "off_policy_mask_threshold",
                "it masks whole sequences by the sign of their advantage, which token-level credit "
                f"does not have; set it to None, {plain}",
            )

    def _refuse(self, name: str, reason: str) -> None:
        raise ValueError(f"{name}={getattr(self, name)!r}: {reason}.")


def own_fields() -> list[str]:
    """Names of the fields that `GRPOConfig` lacks."""
    theirs = {f.name for f in fields(GRPOConfig)}
    return [f.name for f in fields(LambdaGRPOConfig) if f.name not in theirs]


def method_fields() -> list[str]:
    """Those of our fields that say how credit is assigned; the others only say what is logged."""
    return [name for name in own_fields() if not name.startswith("credit_log_")]


def _default(name: str) -> Any:
    return LambdaGRPOConfig.__dataclass_fields__[name].default
