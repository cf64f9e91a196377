"""Puts the credit where verl computes advantages, with all of verl's batch at hand.

For `trl_lambda_tree` and `process_set_weighting`, which need token ids, and for step rewards from a
reward function. Importing this module replaces two functions of verl for `trl_lambda_*` estimators,
and leaves them to verl for all others:

- `verl.trainer.ppo.v1.trainer_base.compute_advantage_for_multi_trajectories`: verl's trainers
  (`trainer.use_v1=true`, the default). Token ids are fetched from the TransferQueue.
- `verl.trainer.ppo.ray_trainer.compute_advantage`: the legacy trainer, and those in
  `verl.experimental`, whose batch has them.

    export VERL_USE_EXTERNAL_MODULES=trl_lambda.bridges.verl_batch
    python -m verl.trainer.main_ppo algorithm.adv_estimator=trl_lambda_tree \\
        +algorithm.trl_lambda.process_set_weighting=true ...

Steps of `trl_lambda_process` may come from the reward function here: it returns, beside `score`,
`step_rewards`, the JSON text of a list of [index of the response's token that ends the step,
reward]; the score is then logged only. See `verl` for what holds for all estimators.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo import ray_trainer

from . import verl as registry  # the estimators' names are known to verl
from .dataproto import ESTIMATORS, credit_of_batch, verl_rule
from .padded import TokenIds

try:
    import transfer_queue
    from verl.trainer.ppo.v1 import trainer_base
except ModuleNotFoundError as _error:
    # Without TransferQueue verl has no V1 trainers either.
    if _error.name != "transfer_queue":
        raise
    transfer_queue = trainer_base = None

__all__ = ["install", "registry"]

PARTITION = "train"  # where verl's trainers keep what they train on


def install() -> None:
    """Replaces the two functions; a second call changes nothing."""
    _replace(ray_trainer, "compute_advantage", _of_batch)
    if trainer_base is not None:
        _replace(trainer_base, "compute_advantage_for_multi_trajectories", _of_queue)


def _replace(home: ModuleType, name: str, make: Callable[[Callable], Callable]) -> None:
    original = getattr(home, name)
    if hasattr(original, "trl_lambda"):
        return
    ours = functools.wraps(original)(make(original))
    ours.trl_lambda = True
    # Other modules of verl may have imported the function by its name.
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("verl.") and getattr(module, name, None) is original:
            setattr(module, name, ours)


def _of_batch(original: Callable) -> Callable:
    def compute_advantage(
        data: Any,
        adv_estimator: Any,
        gamma: float = 1.0,
        lam: float = 1.0,
        num_repeat: int = 1,
        norm_adv_by_std_in_grpo: bool = True,
        config: Any = None,
    ) -> Any:
        if adv_estimator not in ESTIMATORS:
            return original(
                data, adv_estimator, gamma, lam, num_repeat, norm_adv_by_std_in_grpo, config
            )
        if "response_mask" not in data.batch:
            data.batch["response_mask"] = ray_trainer.compute_response_mask(data)
        return credit_of_batch(
            data,
            ESTIMATORS[adv_estimator],
            config,
            norm_adv_by_std_in_grpo=norm_adv_by_std_in_grpo,
        )

    return compute_advantage


def _of_queue(original: Callable) -> Callable:
    def compute_advantage_for_multi_trajectories(
        data: Any, batch_keys: list[str], adv_estimator: Any, *args: Any, **options: Any
    ) -> Any:
        if adv_estimator not in ESTIMATORS:
            return original(data, batch_keys, adv_estimator, *args, **options)
        _refuse_split_sessions(batch_keys)
        td_error, config = ESTIMATORS[adv_estimator], options["config"]
        tokens = steps = None
        rule = verl_rule(td_error, config).credit
        if rule.shares_prefixes:
            queued = _fetch(batch_keys, "prompts", "responses", "multi_modal_inputs")
            tokens = _queued_tokens(queued["prompts"], queued["responses"])
            if "multi_modal_inputs" in queued:
                images = list(queued["multi_modal_inputs"])
                data.non_tensor_batch["multi_modal_inputs"] = images
        if rule.entry.reads_steps:
            queued = _fetch(batch_keys, "extra_fields")
            if "extra_fields" in queued:
                steps = _queued_steps(list(queued["extra_fields"]))
        return credit_of_batch(
            data,
            td_error,
            config,
            norm_adv_by_std_in_grpo=options["norm_adv_by_std_in_grpo"],
            tokens=tokens,
            step_rewards=steps,
        )

    return compute_advantage_for_multi_trajectories


def _fetch(keys: list[str], *fields: str) -> Any:
    """The fields of the rows, without those that an agent loop of the user's never wrote."""
    return transfer_queue.kv_batch_get(
        keys=keys, partition_id=PARTITION, select_fields=list(fields)
    )


def _queued_tokens(prompts: Tensor, responses: Tensor) -> TokenIds:
    """From verl's nested tensors, one row of its own length per completion."""
    return TokenIds(
        completion_ids_BT=torch.nested.to_padded_tensor(responses, 0),
        lengths_B=responses.offsets().diff(),
        prompt_ids_BP=torch.nested.to_padded_tensor(prompts, -1),
    )


def _queued_steps(extra_fields: list[Any]) -> list[Any] | None:
    """The reward function's `step_rewards`, if it returned any."""
    infos = [(fields or {}).get("reward_extra_info") or {} for fields in extra_fields]
    if not any("step_rewards" in info for info in infos):
        return None
    return [info.get("step_rewards") for info in infos]


def _refuse_split_sessions(batch_keys: list[str]) -> None:
    """A key is {uid}_{session}_{output}: with several outputs a row is no whole completion."""
    sessions = [key.rsplit("_", 1)[0] for key in batch_keys]
    if len(set(sessions)) < len(sessions):
        raise NotImplementedError(
            "An agent loop returned several outputs for one session. Each is a row of its own, and "
            "trl_lambda's groups are made of whole completions. Return one output per session, or "
            "use verl's grpo."
        )


install()
