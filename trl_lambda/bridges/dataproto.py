"""The credit over verl's batch (`DataProto`) and verl's config; imports no verl.

verl keeps prompts padded on the left, responses on the right, and one `uid` per prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..rule import IMAGES_IN_COMPLETIONS, READS_PREFIXES
from ..td_errors import TD_ERRORS
from .padded import BridgeRule, TokenIds, padded_credit, read_rule

PREFIX = "trl_lambda_"
# An estimator is handed no policy that could be asked for the answer.
ESTIMATORS: dict[str, str] = {
    PREFIX + td_error: td_error for td_error, entry in TD_ERRORS.items() if not entry.probes
}
"""verl's `algorithm.adv_estimator` to our `td_error`."""

# The rows that verl appends to make a batch divisible: groups of their own, all masked.
_FILLER_UID = re.compile(r"pad[0-9a-f]{32}")
# Inputs of a model beside tokens, as verl's processors name them; token_type_ids are none.
_SEEN = re.compile("pixel|image|video|audio|feature")


def verl_rule(
    td_error: str, config: Any = None, *, norm_adv_by_std_in_grpo: bool | None = None
) -> BridgeRule:
    """The rule that verl's `algorithm` section spells.

    It reads `trl_lambda.*` (see `padded.BRIDGE_OPTIONS`) and `norm_adv_by_std_in_grpo`, which
    stands for `scale_rewards` "group" or "none" where that is not given.

    Args:
        td_error: as in `LambdaGRPOConfig`.
        config: `config.algorithm`, or None for all defaults.
        norm_adv_by_std_in_grpo: in place of the config's.

    Raises:
        ValueError: as `read_rule`, and for settings of verl that would be ignored or misread.
    """
    config = {} if config is None else config
    for name in ("lam", "gamma"):
        value = config.get(name, 1.0)
        if value != 1.0:
            raise ValueError(
                f"algorithm.{name}={value} is GAE's, and adv_estimator={PREFIX}{td_error} does not "
                f"read it. Leave it at 1.0, and set +algorithm.trl_lambda.trace_lambda={value} "
                "beside a trace (+algorithm.trl_lambda.trace_style=recent) if its decay was meant."
            )
    if td_error == "process" and config.get("use_kl_in_reward", False):
        raise ValueError(
            f"algorithm.use_kl_in_reward=True puts a reward on every token, and each would be a "
            f"step for adv_estimator={PREFIX}process. Use actor_rollout_ref.actor.use_kl_loss."
        )
    if norm_adv_by_std_in_grpo is None:
        norm_adv_by_std_in_grpo = config.get("norm_adv_by_std_in_grpo", True)
    options = config.get("trl_lambda", None)
    return read_rule(
        td_error,
        None if options is None else dict(options.items()),
        scale="group" if norm_adv_by_std_in_grpo else "none",
    )


def credit_of_batch(
    data: Any,
    td_error: str,
    config: Any = None,
    *,
    norm_adv_by_std_in_grpo: bool | None = None,
    tokens: TokenIds | None = None,
    step_rewards: Sequence[Any] | None = None,
) -> Any:
    """Writes `advantages` and `returns` into a batch of verl's, whatever the rule needs of it.

    For a trainer of your own, in place of verl's `compute_advantage`; `bridges.verl_batch` puts it
    there for verl's own trainers.

    Args:
        data: a `DataProto` of whole groups, or anything with mappings `batch` and
            `non_tensor_batch`. `batch` has `token_level_rewards` and `response_mask`, both
            `(B, T)`, and where prefixes are compared (`tree`, `sibling`, process sets) `responses`
            `(B, T)`, `prompts` `(B, P)` and `attention_mask` `(B, P+T)`. `non_tensor_batch` has
            `uid`, and may have `step_rewards` and `multi_modal_inputs`.
        td_error: as in `LambdaGRPOConfig`.
        config: verl's `config.algorithm`.
        norm_adv_by_std_in_grpo: in place of the config's.
        tokens: in place of `responses`, `prompts` and `attention_mask`.
        step_rewards: in place of `non_tensor_batch["step_rewards"]`: for `process`, for each row a
            list of (index of the response's token that ends the step, reward), the same as JSON
            text, or None. With neither, each token-level reward that is not 0 is a step.

    Returns:
        `data`.

    Raises:
        ValueError: settings that mean nothing, tensors that are missing or do not fit.
        NotImplementedError: members of a group that were shown different images.
    """
    rule = verl_rule(td_error, config, norm_adv_by_std_in_grpo=norm_adv_by_std_in_grpo)
    uids = group_names(data.non_tensor_batch.get("uid"))
    if rule.credit.shares_prefixes:
        check_images(data.non_tensor_batch.get("multi_modal_inputs"), uids)
        tokens = tokens or token_ids(data.batch)
    if step_rewards is None:
        step_rewards = data.non_tensor_batch.get("step_rewards")
    advantages = estimate(
        rule,
        data.batch["token_level_rewards"],
        data.batch["response_mask"],
        uids,
        tokens=tokens,
        step_rewards=step_rewards,
    )
    data.batch["advantages"], data.batch["returns"] = advantages, advantages
    return data


@torch.no_grad()
def estimate(
    rule: BridgeRule,
    rewards_BT: Tensor,
    mask_BT: Tensor,
    uids: list[Any],
    *,
    tokens: TokenIds | None = None,
    step_rewards: Sequence[Any] | None = None,
) -> Tensor:
    """`(B, T)`: token-level advantages; verl's filler rows count nowhere."""
    filler = [isinstance(uid, str) and bool(_FILLER_UID.fullmatch(uid)) for uid in uids]
    steps = None
    if rule.credit.entry.reads_steps and step_rewards is not None:
        steps = [_steps(given, row) for row, given in enumerate(step_rewards)]
    credit = padded_credit(
        rule,
        rewards_BT,
        mask_BT,
        uids,
        tokens=tokens,
        steps=steps,
        ignored_B=torch.tensor(filler, device=mask_BT.device),
    )
    return credit.advantage_BT


def group_names(uids: Any) -> list[Any]:
    """verl's `uid` of each row, whatever kind of array it is.

    Raises:
        ValueError: there is none, so that nobody knows what the groups are.
    """
    if uids is None:
        raise ValueError(
            "trl_lambda: the batch has no 'uid', so the groups are unknown. verl's trainers set "
            "non_tensor_batch['uid'], one per prompt."
        )
    return uids.tolist() if hasattr(uids, "tolist") else list(uids)


def token_ids(batch: Mapping[str, Tensor]) -> TokenIds:
    """Tokens and lengths from verl's padded tensors.

    Lengths are the attention mask's, not the response mask's: tool tokens are part of a prefix.
    """
    missing = [n for n in ("responses", "prompts", "attention_mask") if n not in batch]
    if missing:
        raise ValueError(
            f"trl_lambda: {READS_PREFIXES} compare token ids, and the batch lacks "
            f"{', '.join(missing)}."
        )
    P, T = batch["prompts"].shape[1], batch["responses"].shape[1]
    if batch["attention_mask"].shape[1] != P + T:
        raise ValueError(
            f"trl_lambda: expected an attention_mask of {P} + {T} columns, got "
            f"{batch['attention_mask'].shape[1]}."
        )
    prompt_mask, seen_BT = batch["attention_mask"].bool().split([P, T], 1)
    if (seen_BT[:, 1:] & ~seen_BT[:, :-1]).any():
        raise ValueError("trl_lambda: responses must be padded on the right, with no holes.")
    return TokenIds(
        completion_ids_BT=batch["responses"].long(),
        lengths_B=seen_BT.sum(1),
        prompt_ids_BP=batch["prompts"].long().masked_fill(~prompt_mask, -1),
    )


def check_images(inputs: Iterable[Any] | None, uids: list[Any]) -> None:
    """Raises NotImplementedError where members of a group were shown different images."""
    if inputs is None:
        return
    first: dict[Any, dict] = {}
    for given, uid in zip(inputs, uids, strict=True):
        seen = {k: v for k, v in dict(given or {}).items() if _SEEN.search(k)}
        if not _equal(first.setdefault(uid, seen), seen):
            raise NotImplementedError(IMAGES_IN_COMPLETIONS)


def _equal(one: Any, other: Any) -> bool:
    """Whether two processor outputs are the same: tensors, arrays, and lists and dicts of them."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if hasattr(one, "shape") and hasattr(other, "shape"):
        ours, theirs = torch.as_tensor(one), torch.as_tensor(other)
        return ours.shape == theirs.shape and bool((ours == theirs).all())
    return type(one) is type(other) and bool(one == other)


def _steps(given: Any, row: int) -> list[tuple[int, float]] | None:
    """One row's steps: pairs, or JSON text of pairs (NumPy has no arrays of ragged lists)."""
    try:
        pairs = json.loads(given) if isinstance(given, str) else given
        if pairs is None:
            return None
        steps = [(end, float(reward)) for end, reward in pairs]
        if any(isinstance(end, bool) or int(end) != end for end, _ in steps):
            raise TypeError("a token index is a whole number")
        return [(int(end), reward) for end, reward in steps]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"trl_lambda: step_rewards of row {row} is {str(given)[:200]!r}; expected a list of "
            "(index of the token that ends the step, reward), JSON text of one, or None."
        ) from error
