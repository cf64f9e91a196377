"""The credit on engines other than TRL's trainer. Nothing here imports TRL.

- `padded`: the credit of a padded batch, whatever engine keeps it. Needs torch alone.
- `dataproto`: the same over verl's batch. Needs no verl to import.
- `verl`: registers advantage estimators with verl; import it, or name it in verl's variable
  `VERL_USE_EXTERNAL_MODULES`.
- `verl_batch`: puts the credit where verl computes advantages, for what the registry cannot do.

verl 0.9.1 is what the tests run. For two more engines only the published signature was read, and
nothing was run:

- SkyRL (NovaSky-AI/SkyRL, `skyrl/backends/skyrl_train/utils/ppo_utils.py`): its
  `register_advantage_estimator(name)` takes functions with the keywords `token_level_rewards`,
  `response_mask`, `index`, `values`, `grpo_norm_by_std`, `gamma`, `lambd`, `config` and whatever
  else, and expects (advantages, returns). `padded.padded_credit` has all that `group`, `terminal`
  and `process` need there.
- slime (THUDM/slime, `slime/backends/megatron_utils/loss.py`; not the package of that name on the
  package index): `--custom-advantage-function-path` names a function (args, rollout_data) -> None
  that writes lists of tensors, one per sample, to `rollout_data["advantages"]` and `["returns"]`.
  It is called in each training process, on the samples of that process, which need not be whole
  groups: `functional.lambda_return` of rewards that are normalised already has its place there,
  process sets and `tree` do not.
"""
