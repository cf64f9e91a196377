"""Advantage estimators for verl: `trl_lambda_group`, `_terminal`, `_process` and `_tree`.

Importing this module registers them, with no change to verl. The processes of Ray must import it
too, which verl does with what its variable `VERL_USE_EXTERNAL_MODULES` names:

    export VERL_USE_EXTERNAL_MODULES=trl_lambda.bridges.verl
    python -m verl.trainer.main_ppo algorithm.adv_estimator=trl_lambda_group \\
        algorithm.norm_adv_by_std_in_grpo=false +algorithm.trl_lambda.trace_style=recent \\
        +algorithm.trl_lambda.trace_lambda=0.95 ...

Options are those of `padded.BRIDGE_OPTIONS`, under `+algorithm.trl_lambda.`; rewards are scaled by
`algorithm.norm_adv_by_std_in_grpo`. verl's `algorithm.lam` and `gamma` are GAE's, and refused.

verl's registry hands an estimator the token-level rewards, the response mask, the `uid` of
each row and `config.algorithm`. So here:

- `group` and `terminal` take a row's sum of rewards; `process` takes each token-level reward that
  is not 0 for a step. verl itself writes one reward, to the last token: more are for reward
  managers of your own, or come from the reward function with `verl_batch`.
- `tree` and `process_set_weighting` need token ids: see `verl_batch`.
- A group is what shares a `uid`. Where an agent loop returns several outputs for one session, each
  is a member of the group of its own; verl's own GRPO counts the last one only.

verl's loss uses it as follows:

- The advantages are w·v·A, token by token: any of verl's token-level losses (`vanilla`, `cispo`,
  `sapo`, …) takes them. `gspo` and `geo_mean` have one ratio per sequence; do not combine.
- `trace_mode="ratio"` lives in the loss, and is refused. `advantage` has the same gradient at the
  policy that sampled; `weight` works.
- A process set's weight multiplies the policy term. verl's KL loss (`use_kl_loss`) stays
  unweighted, unlike in λ-GRPO; a KL in the reward (`use_kl_in_reward`) is part of the reward.
- Dr. GRPO is `norm_adv_by_std_in_grpo=false` and `loss_agg_mode=seq-mean-token-sum-norm`.
- The standard deviation gets + 1e-4, as in TRL (verl: 1e-6), and a group of one gets advantage 0
  (verl: its reward).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est

from .dataproto import ESTIMATORS, estimate, group_names, verl_rule


def advantage_estimator(td_error: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """A function as verl's registry wants it: keywords in, (advantages, returns) out."""

    def estimator(
        token_level_rewards: Tensor,
        response_mask: Tensor,
        index: Any = None,
        config: Any = None,
        **unused: Any,
    ) -> tuple[Tensor, Tensor]:
        rule = verl_rule(td_error, config)
        if rule.credit.shares_prefixes:
            raise ValueError(
                "adv_estimator=trl_lambda_tree and algorithm.trl_lambda.process_set_weighting=true "
                "compare token ids, which verl does not pass to registered estimators. Set "
                "VERL_USE_EXTERNAL_MODULES=trl_lambda.bridges.verl_batch, or call "
                "trl_lambda.bridges.dataproto.credit_of_batch in your own trainer."
            )
        advantages = estimate(rule, token_level_rewards, response_mask, group_names(index))
        return advantages, advantages

    return estimator


for _estimator, _td_error in ESTIMATORS.items():
    register_adv_est(_estimator)(advantage_estimator(_td_error))
