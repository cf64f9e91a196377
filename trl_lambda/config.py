"""`LambdaGRPOConfig`: our fields and their help; what a config of TRL's means for the method.

The functions here take any `GRPOConfig`: one without our fields leaves all of them unset.
"""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

from trl import GRPOConfig

from .batch_plan import BatchSizes, batch_fault
from .config_fields import BranchFields, ProbeFields
from .methods import (
    ALPHAS,
    DEFAULT_METHOD,
    LENGTH,
    METHODS,
    OPTIONS,
    RETIRED,
    TOKEN_LOSSES,
    TRL_OPTIONS,
)
from .option_values import is_number, one_of
from .rule import CreditRule, Method, named, resolve
from .td_errors import TDErrorFunction, td_error_name

# TRL's own settings that a method reads.
TRL_SETTINGS = (
    "loss_type",
    "importance_sampling_level",
    "off_policy_mask_threshold",
    "top_entropy_quantile",
    "multi_objective_aggregation",
    "max_completion_length",
)
AGGREGATIONS = ("sum_then_normalize", "normalize_then_sum")
CREDIT_LOG_MAX_MB = 50.0


@dataclass
class LambdaGRPOConfig(BranchFields, ProbeFields, GRPOConfig):
    """`GRPOConfig` with the credit of single tokens.

    `method` names a method, and every other option of ours overrides one thing of it. None, the
    default of each, is "as the method has it": for `loss_type` and `scale_rewards`, TRL's defaults
    unless the method says otherwise. `trl_lambda.rule` has the methods and where their values are
    from.

    How the options interact: `td_error` says what a token newly tells about the reward (δ), the
    trace (`trace_style`, decay `trace_lambda`) spreads it over time, and `trace_mode` says where
    the trace acts: on the advantage (A = Wᵀδ), on the log-ratio inside the loss (z = Wx), or as a
    weight on the loss's terms. `process_set_weighting` then divides each token's term by the number
    of completions that share its prefix.

    Raises:
        ValueError: a value out of range, or a combination that means nothing; the message names
            the field, its value and the remedy.
    """

    method: str = field(
        default=DEFAULT_METHOD,
        metadata={
            "help": f"The method, by name; default {DEFAULT_METHOD!r}. "
            + "; ".join(
                f"'{name}': {preset.when} ({preset.paper})" for name, preset in METHODS.items()
            )
            + ". Options below override single values of it."
        },
    )
    loss_type: str | None = field(
        default=None,
        metadata={
            "help": "TRL's loss type. Default None: the method's, or TRL's. Token-level credit "
            f"works with {', '.join(TOKEN_LOSSES)}."
        },
    )
    scale_rewards: str | None = field(
        default=None,
        metadata={
            "help": "What centred rewards are divided by: the standard deviation of the 'group' or "
            "the 'batch', or nothing ('none'). Default None: the method's, or TRL's."
        },
    )
    td_error: str | None = field(
        default=None,
        metadata={
            "help": "TD error of a token. Default None: as the method has it. 'group': the "
            "group-normalised reward on every token (GRPO-λ). 'terminal': on the last token only, "
            "the λ-return of an outcome reward with V = 0. 'tree': change of the mean reward of "
            "the completions that share the prefix, on top of the group-normalised reward (TEMPO, "
            "and with λ > 0 the λ-return of that critic). 'sibling': the reward minus the mean of "
            "the completions that part from this one at the token. 'process': normalised rewards "
            "of steps from process_reward_funcs (DeepSeekMath); outcome rewards are then trained "
            "on only if reward_weights is set. 'probe': change of how likely the policy finds the "
            "known answer, from one segment of the completion to the next (needs a column of "
            "answers). Or a function of your own, package.module.function."
        },
    )
    trace_style: str | None = field(
        default=None,
        metadata={
            "help": "Eligibility trace over tokens. Default None: as the method has it. 'recent': "
            "weight c^(t-k) on token k at the term t. 'both': max(c^(t-k), c^k), first tokens stay "
            "eligible (the better one in the GRPO-λ paper). 'none': no trace."
        },
    )
    trace_mode: str | None = field(
        default=None,
        metadata={
            "help": "Where the trace acts. Default None: as the method has it. 'advantage': on the "
            "TD errors, A = Wᵀδ; costs nothing in the loss and composes exactly with process sets. "
            "'ratio': on the log-ratio in the loss, the paper's ε-trace. 'weight': row sums of the "
            "trace weigh the policy term, the paper's ε-weight."
        },
    )
    trace_lambda: float | str | None = field(
        default=None,
        metadata={
            "help": "λ in [0, 1], the decay of the trace per policy token, or step (trace_per). "
            f"Default None: as the method has it. 0 with 'recent' is no trace. {LENGTH!r}: "
            "1 - 1/(trace_alpha * length) for each completion (VAPO)."
        },
    )
    trace_alpha: float | None = field(
        default=None,
        metadata={
            "help": f"α > 0 of trace_lambda={LENGTH!r}, where λ = 1 - 1/(α * length), no lower "
            f"than 0. Default None: {ALPHAS['token']:g} where the length is in tokens (VAPO's), "
            f"{ALPHAS['step']:g} where it is in steps."
        },
    )
    trace_per: str | None = field(
        default=None,
        metadata={
            "help": "What the decay counts. Default None: as the method has it. 'token': policy "
            "tokens. 'step': the steps of td_error='process' or the segments of 'probe', so that "
            "all tokens of a step have one credit; needs trace_mode='advantage'."
        },
    )
    normalize_trace: bool | None = field(
        default=None,
        metadata={
            "help": "Divide the rows of the trace by their sums: a token's mean gain is then 1, "
            "that of the first tokens more, that of the last less. Default None: as the method has "
            "it, else True but for TD errors on few tokens ('terminal', 'process'), where there is "
            "nothing to even out. False is the GRPO-λ paper's trace: gradients up to 1/(1-λ) times "
            "larger, so a smaller learning rate, and clipping far sooner."
        },
    )
    advantage_floor: float | None = field(
        default=None,
        metadata={
            "help": "Lower bound (≤ 0) of the group-normalised reward, before any trace. Default "
            "None: as the method has it. -inf: no bound (--advantage_floor=-inf). "
            "td_error='process' trains on step rewards, which it does not touch; with 'sibling' it "
            "bounds a token's credit, after the baseline."
        },
    )
    process_set_weighting: bool | None = field(
        default=None,
        metadata={
            "help": "Divide each token's term (policy and KL) by the number of completions of the "
            "group that share its prefix (λ-GRPO). Default None: as the method has it."
        },
    )
    trace_gamma: float | None = field(default=None, metadata={"help": SUPPRESS})  # refused

    credit_log_steps: int | None = field(
        default=None,
        metadata={
            "help": "Write the credit of single tokens of sampled groups every so many optimiser "
            "steps to <output_dir>/credit_log. None (default): every logging_steps if "
            "log_completions is on, else never."
        },
    )
    credit_log_max_mb: float = field(
        default=CREDIT_LOG_MAX_MB,
        metadata={
            "help": f"Megabytes the credit log may take on disk (default {CREDIT_LOG_MAX_MB:g}); "
            "the oldest records are dropped, and counted."
        },
    )

    def __post_init__(self):
        self.trace_lambda, self.step_ends = _number(self.trace_lambda), _number(self.step_ends)
        given = (self.steps_per_generation, self.generation_batch_size)  # TRL fills them in
        try:
            super().__post_init__()
        except (ValueError, ZeroDivisionError):
            _check_batch_sizes(self, *given)  # TRL's own message has no remedy
            raise
        _check_batch_sizes(self, *given)
        check_config(self)

    def to_dict(self) -> dict[str, Any]:
        """As transformers' own; a function has its dotted name there."""
        return {**super().to_dict(), "step_ends": named(self.step_ends)}

    @property
    def credit_rule(self) -> CreditRule:
        """How credit is assigned, the method's values filled in."""
        return method_of(self).credit


def method_of(args: GRPOConfig, td_error: TDErrorFunction | None = None) -> Method:
    """The method that a config spells.

    Args:
        args: any `GRPOConfig`.
        td_error: a function in the place of `args.td_error`.

    Raises:
        ValueError: a value out of range, or a combination that means nothing.
    """
    # In another config `loss_type` and `scale_rewards` are TRL's, and `method` may be a user's.
    names = ("method", *OPTIONS, *RETIRED) if isinstance(args, LambdaGRPOConfig) else ()
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    if td_error is not None:
        if "td_error" in given:
            raise ValueError(
                f"td_error was given twice: {given['td_error']!r} in the config and a function to "
                "the trainer. Leave one of them out."
            )
        given["td_error"] = td_error
    return resolve(given, {name: getattr(args, name) for name in TRL_SETTINGS})


@contextmanager
def trl_fields_filled(args: GRPOConfig, method: Method) -> Iterator[None]:
    """`loss_type` and `scale_rewards` have values while TRL reads them, and are then as before."""
    before = {name: getattr(args, name) for name in TRL_OPTIONS}
    for name, value in trl_values(args, method).items():
        setattr(args, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(args, name, value)


def trl_values(args: GRPOConfig, method: Method) -> dict[str, str]:
    """`loss_type` and `scale_rewards` that train: the method's, the config's, or TRL's defaults."""
    values = {}
    for name in TRL_OPTIONS:
        default = GRPOConfig.__dataclass_fields__[name].default
        values[name] = getattr(method, name) or getattr(args, name) or default
    return values


def batch_sizes(args: GRPOConfig, **known: Any) -> BatchSizes:
    """The sizes that `plan_batches` plans with; `known` are those that only the trainer knows."""
    steps = args.steps_per_generation
    sizes = BatchSizes(
        per_device_train_batch_size=args.per_device_train_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        # TRL sets it to the accumulation where it was not given. Then it follows the accumulation,
        # and a remedy may change that one.
        steps_per_generation=None if steps == args.gradient_accumulation_steps else steps,
        num_generations=args.num_generations,
        num_iterations=args.num_iterations,
        max_completion_length=args.max_completion_length,
        num_processes=args.world_size,
        max_steps=args.max_steps,
        num_train_epochs=args.num_train_epochs,
        branching=method_of(args).branching,
    )
    if args.do_eval and args.eval_strategy != "no":
        sizes = replace(
            sizes,
            per_device_eval_batch_size=args.per_device_eval_batch_size,
            num_generations_eval=args.num_generations_eval,
        )
    return replace(sizes, **known)


def steps_between_records(args: GRPOConfig) -> float | None:
    """Optimiser steps between two records of the credit log; None for no log.

    Below 1 it is a share of the training's steps, as `logging_steps` may be.
    """
    steps = getattr(args, "credit_log_steps", None)
    if steps is not None or not args.log_completions:
        return steps
    return args.logging_steps


def credit_log_max_mb(args: GRPOConfig) -> float:
    """Megabytes that the credit log may take."""
    return getattr(args, "credit_log_max_mb", CREDIT_LOG_MAX_MB)


def check_config(args: GRPOConfig, td_error: TDErrorFunction | None = None) -> Method:
    """The method of a config whose other values were checked, too.

    Raises:
        ValueError: a value out of range, or a combination that means nothing.
    """
    method = method_of(args, td_error)
    if args.multi_objective_aggregation not in AGGREGATIONS:
        _refuse(args, "multi_objective_aggregation", one_of(AGGREGATIONS))
    steps = getattr(args, "credit_log_steps", None)
    if steps is not None and not (isinstance(steps, int) and steps >= 1):
        _refuse(args, "credit_log_steps", "it must be a whole number ≥ 1, or None")
    column = getattr(args, "answer_column", None)
    if column is not None and not method.credit.entry.probes:
        name = td_error_name(method.credit.td_error)
        reason = f"td_error={name!r} does not read it; leave it out, or set td_error to 'probe'"
        _refuse(args, "answer_column", reason)
    if not (column is None or (isinstance(column, str) and column)):
        _refuse(args, "answer_column", "it must be the name of a column")
    max_mb = credit_log_max_mb(args)
    if not (is_number(max_mb) and max_mb > 0):
        _refuse(args, "credit_log_max_mb", "it must be a number of megabytes > 0")
    if args.world_size > 1 and not args.accelerator_config.even_batches:
        raise ValueError(
            "accelerator_config: even_batches=False leaves a process with fewer rows than the "
            "others at the end of an evaluation, or with none, and the others then wait for it "
            "without end; set even_batches to True."
        )
    return method


def own_fields() -> list[str]:
    """Names of the fields that `GRPOConfig` lacks."""
    theirs = {f.name for f in fields(GRPOConfig)}
    return [f.name for f in fields(LambdaGRPOConfig) if f.name not in {*theirs, *RETIRED}]


def _number(value: Any) -> Any:
    """A number that the command line gave as a text; other values as they are."""
    if not isinstance(value, str):
        return value
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            pass
    return value


def _check_batch_sizes(args: GRPOConfig, steps: int | None, generation_batch: int | None) -> None:
    # Before the processes are known none of the sizes has been looked at.
    if not hasattr(args, "distributed_state") or None not in (steps, generation_batch):
        return
    sizes = batch_sizes(args, steps_per_generation=steps, generation_batch_size=generation_batch)
    if fault := batch_fault(sizes):
        raise ValueError(fault) from None


def _refuse(args: GRPOConfig, name: str, reason: str) -> None:
    raise ValueError(f"{name}={getattr(args, name)!r}: {reason}.")
