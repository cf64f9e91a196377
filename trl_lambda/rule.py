"""The rule of credit: options resolved, and what is refused and why; without TRL.

An option that is None is *unset*: it is what the method has. `resolve` turns the options that were
given into a `Method`, or raises the reason why they mean nothing. Whether an option was given is
never guessed from its value: one that would be ignored is refused, whatever its value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .methods import (
    ALPHAS,
    BRANCH_OPTIONS,
    BRANCHED,
    DEFAULT_METHOD,
    LENGTH,
    NEUTRAL,
    NO_FLOOR,
    OPTIONS,
    TRACE_OPTIONS,
    TRL_OPTIONS,
    preset_value,
)
from .option_values import named, value_fault
from .rollout.rule import BranchRule
from .td_errors import (
    TD_ERROR_OPTIONS,
    TD_ERRORS,
    TDError,
    TDErrorFunction,
    find_td_error,
    td_error_name,
)
from .trl_settings import sequence_level, unfit

WHICH_METHOD = "Which method to try for what: https://github.com/trl-lambda/trl-lambda#methods."

_SHARING = [f"td_error={name!r}" for name, one in TD_ERRORS.items() if one.shares_prefixes]
READS_PREFIXES = f"{', '.join(_SHARING)} and process_set_weighting"
IMAGES_IN_COMPLETIONS = (
    "A tool or an environment returned images. Completions that show different images have the "
    f"same placeholder tokens, so process sets cannot tell them apart, and {READS_PREFIXES} rest "
    "on process sets. Train without such tools, or without these options."
)


def _bound(floor: float) -> float | None:
    return None if floor == NO_FLOOR else floor


# The default method's values, for rules that are built by hand.
_DEFAULT = {option: preset_value(DEFAULT_METHOD, option) for option in OPTIONS}


@dataclass(frozen=True)
class CreditRule:
    """How credit is assigned; the fields are the options of the same name, resolved.

    Attributes:
        td_error: a built-in name, a function, or the dotted path of one.
        decay: c = `trace_lambda`, in [0, 1], or "length": 1 − 1/(`trace_alpha`·length), where the
            length of a completion is in policy tokens, or in steps as `trace_per` says.
        advantage_floor: None for no bound.
        sibling_shrinkage: κ, rows that the baseline before a parting counts for.
        step_ends: "newline", a number of policy tokens, a function, or the dotted path of one.
    """

    td_error: str | TDErrorFunction = _DEFAULT["td_error"]
    trace_style: str = _DEFAULT["trace_style"]
    trace_mode: str = _DEFAULT["trace_mode"]
    decay: float | str = _DEFAULT["trace_lambda"]
    normalize_trace: bool = not TD_ERRORS[_DEFAULT["td_error"]].sparse
    advantage_floor: float | None = _bound(_DEFAULT["advantage_floor"])
    process_set_weighting: bool = _DEFAULT["process_set_weighting"]
    sibling_shrinkage: float = _DEFAULT["sibling_shrinkage"]
    trace_per: str = _DEFAULT["trace_per"]
    trace_alpha: float = ALPHAS[_DEFAULT["trace_per"]]
    probe_text: str = _DEFAULT["probe_text"]
    step_ends: int | str | Callable = _DEFAULT["step_ends"]
    probe_calibration: bool = _DEFAULT["probe_calibration"]

    @property
    def entry(self) -> TDError:
        """The TD error's entry in the table, or one for the user's function."""
        return find_td_error(self.td_error)

    @property
    def traced(self) -> bool:
        return self.trace_style != "none"

    @property
    def traces_steps(self) -> bool:
        """Whether the trace's decay counts steps in the place of tokens."""
        return self.traced and self.trace_per == "step"

    @property
    def traces_ratio(self) -> bool:
        """Whether the loss needs z in place of the log-ratio."""
        return self.traced and self.trace_mode == "ratio"

    @property
    def shares_prefixes(self) -> bool:
        """Whether credit depends on which completions share a prefix."""
        return self.process_set_weighting or self.entry.shares_prefixes

    @property
    def token_level(self) -> bool:
        """Whether tokens of one completion can differ in credit."""
        return self.traced or self.td_error != "group" or self.process_set_weighting


@dataclass(frozen=True)
class Method:
    """Options resolved: what trains, and where it is from.

    Attributes:
        name: the preset's.
        given: the options that the user set, as they were given.
        credit: how credit is assigned.
        branching: how completions are forked from one another; None if they are independent.
        loss_type, scale_rewards: values in the place of TRL's; None leaves TRL's.
    """

    name: str
    given: Mapping[str, Any]
    credit: CreditRule
    loss_type: str | None
    scale_rewards: str | None
    branching: BranchRule | None = None

    @property
    def token_level(self) -> bool:
        """Whether tokens of one completion can differ in credit or weight."""
        weights = None if self.branching is None else self.branching.weights
        return self.credit.token_level or weights == "branches"

    def values(self) -> dict[str, Any]:
        """By option, what trains; None where TRL's own value does, and where nothing reads it."""
        rule = self.credit
        unread = dict.fromkeys(o for o in TD_ERROR_OPTIONS if o not in rule.entry.options)
        floor = NO_FLOOR if rule.advantage_floor is None else rule.advantage_floor
        return {
            "td_error": td_error_name(rule.td_error),
            "trace_style": rule.trace_style,
            "trace_mode": rule.trace_mode,
            "trace_lambda": rule.decay,
            "normalize_trace": rule.normalize_trace,
            "advantage_floor": floor,
            "process_set_weighting": rule.process_set_weighting,
            "sibling_shrinkage": rule.sibling_shrinkage,
            **self._rollout_values(),
            "trace_per": rule.trace_per,
            "trace_alpha": rule.trace_alpha if rule.decay == LENGTH else None,
            "probe_text": rule.probe_text,
            "step_ends": named(rule.step_ends),
            "probe_calibration": rule.probe_calibration,
            "loss_type": self.loss_type,
            "scale_rewards": self.scale_rewards,
            **unread,
        }

    def _rollout_values(self) -> dict[str, Any]:
        if self.branching is None:
            return {"rollout": NEUTRAL["rollout"]} | dict.fromkeys(BRANCH_OPTIONS)
        return {"rollout": BRANCHED} | self.branching.values()

    def describe(self, trl: Mapping[str, Any]) -> str:
        """One line: what the method changes of TRL's GRPO.

        Args:
            trl: `loss_type` and `scale_rewards` that train.
        """
        idle = () if self.credit.traced else TRACE_OPTIONS
        changed = [
            f"{name}={value!r}"
            for name, value in self.values().items()
            if name not in idle and value is not None and value != NEUTRAL[name]
        ]
        what = f"changes {', '.join(changed)}" if changed else "changes nothing of TRL's GRPO"
        kept = [f"{name}={trl[name]!r}" for name in TRL_OPTIONS if self.values()[name] is None]
        rest = f"; TRL's are {' and '.join(kept)}" if kept else ""
        line = f"method={self.name!r} {what}{rest}."
        return line if changed or self.name != DEFAULT_METHOD else f"{line} {WHICH_METHOD}"


def resolve(given: Mapping[str, Any], trl: Mapping[str, Any] = MappingProxyType({})) -> Method:
    """The method that the given options spell.

    Args:
        given: `method` and any of `OPTIONS`; None is unset.
        trl: settings of TRL's that a method may not go with, as far as there are any:
            `loss_type`, `importance_sampling_level`, `off_policy_mask_threshold`,
            `top_entropy_quantile`, `multi_objective_aggregation`, `max_completion_length`.

    Raises:
        ValueError: an unknown option, a value out of range, or a combination that means nothing;
            the message names the option, its value and the remedy.
    """
    given = {name: value for name, value in given.items() if value is not None}
    name = given.pop("method", DEFAULT_METHOD)
    if fault := value_fault("method", name):
        raise ValueError(_refusal("method", name, fault))
    for option, value in given.items():
        if fault := value_fault(option, value):
            raise ValueError(_refusal(option, value, fault))
    method = _combine(name, given)
    trl = {**trl, "loss_type": method.loss_type or trl.get("loss_type")}
    for option, reason in _ignored(method):
        raise ValueError(_refusal(option, given[option], reason))
    for option, value, reason in unfit(trl):
        raise ValueError(_refusal(option, value, reason))
    for option, value, reason in _misfits(method, trl):
        source = "" if option in given or option in trl else f" (of method={name!r})"
        raise ValueError(_refusal(option, value, reason, source))
    return method


def _refusal(option: str, value: Any, reason: str, source: str = "") -> str:
    return f"{option}={named(value)!r}{source}: {reason}."


def _combine(name: str, given: Mapping[str, Any]) -> Method:
    values = {option: given.get(option, preset_value(name, option)) for option in OPTIONS}
    entry = find_td_error(values["td_error"])
    normalize, floor = values["normalize_trace"], values["advantage_floor"]
    return Method(
        name=name,
        given=MappingProxyType(dict(given)),
        credit=CreditRule(
            td_error=values["td_error"],
            trace_style=values["trace_style"],
            trace_mode=values["trace_mode"],
            decay=values["trace_lambda"],
            normalize_trace=not entry.sparse if normalize is None else normalize,
            advantage_floor=_bound(floor) if entry.takes_floor else None,
            process_set_weighting=values["process_set_weighting"],
            sibling_shrinkage=values["sibling_shrinkage"],
            trace_per=values["trace_per"],
            trace_alpha=values["trace_alpha"] or ALPHAS[values["trace_per"]],
            probe_text=values["probe_text"],
            step_ends=values["step_ends"],
            probe_calibration=values["probe_calibration"],
        ),
        loss_type=values["loss_type"],
        scale_rewards=values["scale_rewards"],
        branching=_branching(values),
    )


def _branching(values: Mapping[str, Any]) -> BranchRule | None:
    if values["rollout"] != BRANCHED:
        return None
    return BranchRule(
        roots=values["branch_roots"],
        forks=values["branch_forks"],
        at=values["branch_at"],
        fraction=values["branch_fraction"],
        surprise=values["branch_surprise"],
        levels=values["branch_levels"],
        weights=values["branch_weights"],
    )


def _ignored(method: Method) -> Iterator[tuple[str, str]]:
    """Options that were given and would have no effect: (option, reason)."""
    if not method.credit.traced:
        for option in TRACE_OPTIONS:
            if option in method.given:
                yield (
                    option,
                    "without a trace (trace_style='none') there is nothing for it to act on; leave "
                    "it out, or set trace_style to 'recent' or 'both'",
                )
    entry, name = method.credit.entry, td_error_name(method.credit.td_error)
    for option in TD_ERROR_OPTIONS:
        if option in method.given and option not in entry.options:
            readers = [repr(n) for n, one in TD_ERRORS.items() if option in one.options]
            yield (
                option,
                f"td_error={name!r} does not read it; leave it out, or set td_error to "
                f"{' or '.join(readers)}",
            )
    if "trace_alpha" in method.given and method.credit.decay != LENGTH:
        yield (
            "trace_alpha",
            f"it belongs to trace_lambda={LENGTH!r}; leave it out, or set that",
        )
    yield from _ignored_of_rollout(method)
    floor = method.given.get("advantage_floor", NO_FLOOR)
    if not entry.takes_floor and floor != NO_FLOOR:
        trains_on = "step rewards" if entry.reads_steps else "changes of the answer's probability"
        yield (
            "advantage_floor",
            f"it bounds the group-normalised outcome reward, and td_error={name!r} trains on "
            f"{trains_on}; leave it out",
        )


def _ignored_of_rollout(method: Method) -> Iterator[tuple[str, str]]:
    """Options of branching that were given and would have no effect."""
    rule = method.branching
    for option in BRANCH_OPTIONS:
        if option not in method.given:
            continue
        if rule is None:
            yield (
                option,
                "completions are only forked with rollout='branch'; leave it out, or set that",
            )
        elif rule.at not in _PLACES_THAT_READ.get(option, (rule.at,)):
            yield option, f"branch_at={rule.at!r} does not read it; leave it out"


_PLACES_THAT_READ = {
    "branch_fraction": ("fraction", "newline", "surprise"),
    "branch_surprise": ("surprise",),
}


def _misfits(method: Method, trl: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Where the credit cannot go with something else: (option, value, reason)."""
    rule = method.credit
    if rule.traces_ratio and trl.get("top_entropy_quantile", 1.0) < 1.0:
        yield (
            "top_entropy_quantile",
            trl["top_entropy_quantile"],
            "with trace_mode='ratio' a token that it masks would still learn through the trace of "
            "later ones; set it to 1.0, or use trace_mode='advantage'",
        )
    if rule.traces_steps and rule.trace_mode != "advantage":
        yield (
            "trace_mode",
            rule.trace_mode,
            "trace_per='step' traces TD errors of whole steps, which only trace_mode='advantage' "
            "can; use that, or trace_per='token'",
        )
    if rule.entry.adds_advantage:
        name = td_error_name(rule.td_error)
        if rule.traced and rule.trace_mode != "advantage":
            yield (
                "trace_mode",
                rule.trace_mode,
                f"td_error={name!r} adds the untraced group-normalised reward to the traced TD "
                "errors, which only trace_mode='advantage' can; use that",
            )
    if rule.entry.shares_prefixes or rule.entry.probes:
        name = td_error_name(rule.td_error)
        if trl.get("multi_objective_aggregation") == "normalize_then_sum":
            yield (
                "multi_objective_aggregation",
                "normalize_then_sum",
                f"td_error={name!r} needs one reward and one deviation per completion; use "
                "'sum_then_normalize'",
            )
    branching = method.branching
    if branching is not None and branching.at == "value" and not rule.entry.probes:
        yield (
            "branch_at",
            branching.at,
            "it forks where the answer probe's value is uncertain, and "
            f"td_error={td_error_name(rule.td_error)!r} asks for none; set td_error='probe', or "
            "branch_at to 'random'",
        )
    weights = None if branching is None else branching.weights
    if rule.process_set_weighting and weights == "branches":
        yield (
            "branch_weights",
            weights,
            "process_set_weighting weighs the same tokens another way; set branch_weights to "
            "'rows', or leave process_set_weighting out",
        )
    if method.token_level:
        yield from sequence_level(trl)
