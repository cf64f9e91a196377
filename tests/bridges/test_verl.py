"""The bridge with the real verl: through its own functions, its queue and its command line."""

import inspect
import os
import subprocess
import sys

import pytest
import rollouts
import torch

from trl_lambda.bridges.dataproto import credit_of_batch

pytestmark = pytest.mark.verl

SCALES = {"group": True, "none": False}  # verl's norm_adv_by_std_in_grpo
REGISTERED = [
    (td_error, options) for td_error, options, needs_ids in rollouts.RULES if not needs_ids
]
BATCHED = [(td_error, options) for td_error, options, _ in rollouts.RULES]


@pytest.fixture(scope="module")
def ray_trainer():
    from verl.trainer.ppo import ray_trainer

    import trl_lambda.bridges.verl_batch  # noqa: F401

    return ray_trainer


def algorithm(td_error, options, scale, *overrides):
    """verl's own `config.algorithm`, composed from the command line's words."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(
            "ppo_trainer",
            [
                f"algorithm.adv_estimator=trl_lambda_{td_error}",
                f"algorithm.norm_adv_by_std_in_grpo={SCALES[scale]}",
                *(
                    f"+algorithm.trl_lambda.{name}={'null' if value is None else value}"
                    for name, value in options.items()
                ),
                *overrides,
            ],
        )
    OmegaConf.resolve(config)  # as verl's TaskRunner does
    return config


def data_proto(order=rollouts.INTERLEAVED, token_rewards=None, without=(), **more):
    from verl import DataProto

    tensors = rollouts.verl_tensors(order, token_rewards)
    return DataProto.from_dict(
        {name: tensor for name, tensor in tensors.items() if name not in without},
        {"uid": rollouts.uids(order), **more},
    )


def compute(function, data, config):
    """As `RayPPOTrainer.fit` calls it."""
    return function(
        data,
        adv_estimator=config.algorithm.adv_estimator,
        gamma=config.algorithm.gamma,
        lam=config.algorithm.lam,
        num_repeat=config.actor_rollout_ref.rollout.n,
        norm_adv_by_std_in_grpo=config.algorithm.get("norm_adv_by_std_in_grpo", True),
        config=config.algorithm,
    )


def python(*lines, **variables):
    """What a fresh process prints."""
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | variables,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def assert_credit(data, want, order=rollouts.INTERLEAVED):
    want = want[order].float()
    assert want.abs().sum() > 0
    torch.testing.assert_close(data.batch["advantages"], want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(data.batch["returns"], want, rtol=1e-5, atol=1e-6)


def shifted(steps):
    """No step's reward is 0, as it must not be where 0 means no step."""
    return [row and [(end, reward + 1) for end, reward in row] for row in steps]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("td_error", "options"), REGISTERED, ids=str)
def test_registered_estimators(tmp_path, ray_trainer, td_error, options, scale):
    """verl's own `compute_advantage`, which knows nothing of us but a name."""
    steps = shifted(rollouts.STEPS) if td_error == "process" else None
    settings = rollouts.trainer_settings(td_error, options, scale)
    want = rollouts.trainer_credit(tmp_path, settings, steps)
    compute_advantage = inspect.unwrap(ray_trainer.compute_advantage)
    data = data_proto(token_rewards=steps, without=("prompts", "responses"))
    assert_credit(compute(compute_advantage, data, algorithm(td_error, options, scale)), want)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("td_error", "options"), BATCHED, ids=str)
def test_whole_batches(tmp_path, ray_trainer, td_error, options, scale):
    steps = rollouts.STEPS if td_error == "process" else None
    settings = rollouts.trainer_settings(td_error, options, scale)
    want = rollouts.trainer_credit(tmp_path, settings, steps)
    more = {}
    if steps:
        import numpy as np

        more["step_rewards"] = np.empty(8, dtype=object)
        more["step_rewards"][:] = [steps[i] for i in rollouts.INTERLEAVED]
    config = algorithm(td_error, options, scale)
    assert_credit(compute(ray_trainer.compute_advantage, data_proto(**more), config), want)


def test_trainers_that_are_loaded_before_are_served_too():
    """verl's experimental trainers hold the function by a name of their own."""
    run = python(
        "from verl.experimental.separation import ray_trainer as trainer",
        "before = hasattr(trainer.compute_advantage, 'trl_lambda')",
        "import trl_lambda.bridges.verl_batch as bridge",
        "ours = trainer.compute_advantage",
        "bridge.install()",
        "print(before, hasattr(ours, 'trl_lambda'), trainer.compute_advantage is ours)",
    )
    assert run == ["False True True"]


def test_a_call_without_config_is_heeded(ray_trainer):
    plain = ray_trainer.compute_advantage(
        data_proto(), "trl_lambda_group", norm_adv_by_std_in_grpo=False
    )
    config = algorithm("group", {}, "none")
    want = compute(ray_trainer.compute_advantage, data_proto(), config)
    assert torch.equal(plain.batch["advantages"], want.batch["advantages"])


@pytest.mark.parametrize("scale", SCALES)
def test_a_group_of_one_learns_nothing(ray_trainer, scale):
    compute_advantage = inspect.unwrap(ray_trainer.compute_advantage)
    data = data_proto()
    data.non_tensor_batch["uid"][3] = 3.5
    got = compute(compute_advantage, data, algorithm("group", {}, scale)).batch["advantages"]
    assert got.any(1).tolist() == [row != 3 for row in range(8)]


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce_plus_plus"])
def test_estimators_of_verl_stay_verls(ray_trainer, estimator):
    config = algorithm("group", {}, "group", f"algorithm.adv_estimator={estimator}")
    ours = compute(ray_trainer.compute_advantage, data_proto(), config)
    theirs = compute(inspect.unwrap(ray_trainer.compute_advantage), data_proto(), config)
    assert torch.equal(ours.batch["advantages"], theirs.batch["advantages"])


def test_without_trace_and_deviation_it_is_verls_grpo(ray_trainer):
    ours = algorithm("group", {"method": "grpo"}, "none")
    theirs = algorithm("group", {}, "none", "algorithm.adv_estimator=grpo")
    got = compute(ray_trainer.compute_advantage, data_proto(), ours).batch["advantages"]
    want = compute(ray_trainer.compute_advantage, data_proto(), theirs).batch["advantages"]
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("options", [{}, {"process_set_weighting": True}], ids=str)
def test_the_registry_refuses_what_needs_token_ids(ray_trainer, options):
    config = algorithm("group" if options else "tree", options, "group")
    with pytest.raises(ValueError, match=r"VERL_USE_EXTERNAL_MODULES=.*verl_batch"):
        compute(inspect.unwrap(ray_trainer.compute_advantage), data_proto(), config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.lam=0.95", "GAE's"),
        ("+algorithm.trl_lambda.trace_mode=ratio", "inside the loss"),
        ("+algorithm.trl_lambda.trace_lamda=0.9", "unknown option"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(ray_trainer, override, message):
    config = algorithm("group", {"trace_style": "recent"}, "group", override)
    with pytest.raises(ValueError, match=message):
        compute(ray_trainer.compute_advantage, data_proto(), config)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_verls_loss_multiplies_the_ratio_with_the_credit(ray_trainer, sign):
    """At the policy that sampled the gradient is −A/N, whatever the size of A."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.workers.config import FSDPActorConfig

    config = algorithm("tree", {"process_set_weighting": True}, "group")
    data = compute(ray_trainer.compute_advantage, data_proto(), config).batch
    advantages = sign * data["advantages"]
    logps = torch.randn(advantages.shape).requires_grad_()
    actor = FSDPActorConfig(
        strategy="fsdp", rollout_n=4, ppo_micro_batch_size_per_gpu=1, use_dynamic_bsz=False
    )
    loss, _ = get_policy_loss_fn("vanilla")(
        old_log_prob=logps.detach(),
        log_prob=logps,
        advantages=advantages,
        response_mask=data["response_mask"],
        loss_agg_mode="token-mean",
        config=actor,
    )
    loss.backward()
    torch.testing.assert_close(logps.grad, -advantages / data["response_mask"].sum())


MODULES = ["trl_lambda.bridges.verl", "trl_lambda.bridges.verl_batch"]


@pytest.mark.parametrize("module", MODULES)
def test_verl_loads_it_by_its_variable(module):
    run = python(
        "import sys",
        "from verl.trainer.ppo.core_algos import get_adv_estimator_fn",
        "print(get_adv_estimator_fn('trl_lambda_tree').__module__)",
        "from verl.trainer.ppo.ray_trainer import compute_advantage as legacy",
        "from verl.trainer.ppo.v1 import trainer_base",
        "default = trainer_base.compute_advantage_for_multi_trajectories",
        "print([hasattr(f, 'trl_lambda') for f in (legacy, default)], 'trl' in sys.modules)",
        VERL_USE_EXTERNAL_MODULES=module,
    )
    replaced = module.endswith("verl_batch")
    assert run == ["trl_lambda.bridges.verl", f"{[replaced] * 2} False"]


@pytest.fixture(scope="module")
def queue(ray_trainer):
    """A real TransferQueue on a real Ray."""
    import ray

    # Logical CPUs: the queue's actors ask for one each.
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    import transfer_queue

    transfer_queue.init()
    yield transfer_queue
    transfer_queue.close()
    ray.shutdown()


def put(queue, *, sessions=range(8), steps=None, tool_images=False, other_prompt=None, bare=False):
    """Rows as verl's agent loop writes them; the batch's metadata."""
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    order = rollouts.INTERLEAVED
    left = [*queue.kv_list("train").get("train", {})]  # of the test before
    if left:
        queue.kv_clear(keys=left, partition_id="train")
    tensors = rollouts.verl_tensors(order)
    if other_prompt is not None:
        tensors["prompts"][other_prompt, -1] = 40
    rows, keys = [], []
    for row, i in enumerate(order):
        length = len(rollouts.COMPLETIONS[i])
        prompt_mask = tensors["attention_mask"][row, : tensors["prompts"].shape[1]].bool()
        info = {} if steps is None else {"step_rewards": steps[i]}
        rows.append(
            {
                "uid": f"uid{rollouts.GROUPS[i]}",
                "prompts": tensors["prompts"][row][prompt_mask],
                "responses": tensors["responses"][row, :length],
                "response_mask": tensors["response_mask"][row, :length],
                "rm_scores": tensors["token_level_rewards"][row, :length],
                "rollout_log_probs": torch.zeros(length),
                "old_log_probs": torch.zeros(length),
                "ref_log_prob": torch.zeros(length),
                "values": torch.zeros(length),
                "multi_modal_inputs": {"pixel_values": torch.ones(1 + row)} if tool_images else {},
                "extra_fields": {"reward_extra_info": info},
            }
        )
        if bare:  # as an agent loop of the user's own may leave it
            del rows[-1]["multi_modal_inputs"], rows[-1]["extra_fields"]
        keys.append(
            f"uid{rollouts.GROUPS[i]}_{sessions[row]}_{row if len(set(sessions)) < 8 else 0}"
        )
    return queue.kv_batch_put(
        keys=keys,
        partition_id="train",
        fields=list_of_dict_to_tensordict(rows),
        tags=[{"prompt_len": 4, "response_len": 1, "seq_len": 5} for _ in rows],
    )


def trainer_v1(config):
    """verl's default trainer, but for what needs GPUs: only its config is read here."""
    from verl.trainer.ppo.v1 import PPOTrainerSync

    trainer = object.__new__(PPOTrainerSync)
    trainer.config = config
    return trainer


def queued_advantages(queue, batch):
    rows = queue.kv_batch_get(
        keys=batch.keys, partition_id="train", select_fields=["advantages", "returns"]
    )
    assert torch.equal(rows["advantages"].values(), rows["returns"].values())
    return torch.nested.to_padded_tensor(rows["advantages"], 0.0)


@pytest.mark.parametrize(("td_error", "options"), BATCHED, ids=str)
def test_verls_default_trainer(tmp_path, queue, td_error, options):
    """`PPOTrainerSync._compute_advantage` reads from the queue and writes to it."""
    steps = rollouts.STEPS if td_error == "process" else None
    settings = rollouts.trainer_settings(td_error, options, "group")
    want = rollouts.trainer_credit(tmp_path, settings, steps)[rollouts.INTERLEAVED]
    batch = put(queue, steps=steps)
    trainer_v1(algorithm(td_error, options, "group"))._compute_advantage(batch, {})
    got = queued_advantages(queue, batch)
    torch.testing.assert_close(got, want.float(), rtol=1e-5, atol=1e-6)


def test_prompts_are_part_of_a_prefix(queue):
    config = algorithm("tree", {"process_set_weighting": True}, "group")
    batch, plain = put(queue, other_prompt=0), data_proto()
    trainer_v1(config)._compute_advantage(batch, {})
    plain.batch["prompts"][0, -1] = 40
    want = credit_of_batch(plain, "tree", config.algorithm).batch["advantages"]
    torch.testing.assert_close(queued_advantages(queue, batch), want)


@pytest.mark.parametrize("td_error", ["tree", "process"])
@pytest.mark.filterwarnings("ignore:td_error='process' takes")
def test_rows_without_optional_fields(queue, td_error):
    config = algorithm(td_error, {"process_set_weighting": True}, "group")
    batch, plain = put(queue, bare=True), data_proto()
    trainer_v1(config)._compute_advantage(batch, {})
    want = credit_of_batch(plain, td_error, config.algorithm).batch["advantages"]
    torch.testing.assert_close(queued_advantages(queue, batch), want)


def test_filler_rows_of_the_default_trainer(queue):
    from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size

    options = {"process_set_weighting": True, "scale_rewards": "batch"}
    trainer = trainer_v1(algorithm("group", options, "group"))
    batch = put(queue)
    trainer._compute_advantage(batch, {})
    alone = queued_advantages(queue, batch)
    longer = upsample_batch_to_divisible_size(put(queue), 5, eos_token_id=rollouts.EOS)
    assert len(longer.keys) == 10
    trainer._compute_advantage(longer, {})
    both = queued_advantages(queue, longer)
    assert torch.equal(both[:8], alone)
    assert not both[8:].any()


def test_sessions_of_several_outputs_are_refused(queue):
    batch = put(queue, sessions=[0, 0, 1, 1, 2, 2, 2, 3])
    with pytest.raises(NotImplementedError, match="several outputs for one session"):
        trainer_v1(algorithm("group", {}, "group"))._compute_advantage(batch, {})


def test_images_from_tools_are_refused(queue):
    batch = put(queue, tool_images=True)
    with pytest.raises(NotImplementedError, match="images"):
        trainer_v1(algorithm("tree", {}, "group"))._compute_advantage(batch, {})


def test_grpo_of_the_default_trainer_stays_verls(queue):
    batch = put(queue)
    config = algorithm("group", {}, "none", "algorithm.adv_estimator=grpo")
    trainer_v1(config)._compute_advantage(batch, {})
    rewards = torch.tensor(rollouts.REWARDS).view(2, 4)
    want = (rewards - rewards.mean(1, keepdim=True)).flatten()[rollouts.INTERLEAVED]
    torch.testing.assert_close(queued_advantages(queue, batch)[:, 0], want)


def test_rays_processes_know_the_estimators(queue):
    import ray

    def known():
        from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

        return sorted(name for name in ADV_ESTIMATOR_REGISTRY if name.startswith("trl_lambda"))

    # The package is installed where verl's users run it; here it lies in the working folder.
    variables = {
        "VERL_USE_EXTERNAL_MODULES": "trl_lambda.bridges.verl",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    remote = ray.remote(known).options(runtime_env={"env_vars": variables})
    assert ray.get(remote.remote()) == [
        "trl_lambda_group",
        "trl_lambda_process",
        "trl_lambda_sibling",
        "trl_lambda_terminal",
        "trl_lambda_tree",
    ]
