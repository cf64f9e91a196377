"""Trainings on CUDA: neutral ones are TRL's bit for bit, others run in bfloat16."""

import asked
import pytest
import test_branching
import tiny
import torch
from trl import GRPOTrainer
from worked_groups import TWO_GROUPS, TWO_GROUPS_REWARDS

from trl_lambda import LambdaGRPOTrainer

pytestmark = pytest.mark.gpu

BF16 = {"bf16": True}
METHODS = {
    "grpo_lambda": {},
    "branch": {"num_generations": 4, "max_completion_length": 12},
    "probe": {"probe_text": asked.PROBE, "step_ends": 4, "max_completion_length": 16},
}


@pytest.fixture(scope="module")
def repeatable(device):
    """Deterministic where an operation can be; equality is what the tests ask for in any case."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def on(device) -> dict:
    return {"use_cpu": device.type == "cpu"}


def trained(cls, folder, settings, **kw):
    # SDPA's backward pass may add in another order each time.
    model = tiny.model()
    model.set_attn_implementation("eager")
    trainer = tiny.trainer(folder, cls, settings=settings, model=model, **kw)
    trainer.train()
    return trainer


@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("precision", [{}, BF16], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "dapo", "beta": 0.04},
        {"loss_type": "grpo", "num_iterations": 2, "gradient_accumulation_steps": 2},
        {"loss_type": "dr_grpo", "steps_per_generation": 2},
    ],
    ids=str,
)
def test_method_grpo_is_trl_bit_for_bit(tmp_path, device, settings, precision):
    settings = on(device) | {"scale_rewards": "group"} | settings | precision
    stock = trained(GRPOTrainer, tmp_path / "stock", settings)
    ours = trained(LambdaGRPOTrainer, tmp_path / "ours", settings | tiny.NEUTRAL)
    assert tiny.parameters(ours).device.type == device.type
    tiny.assert_same_run(ours, stock)


@pytest.mark.usefixtures("repeatable")
def test_another_method_is_not(tmp_path, device):
    """The comparison above can fail."""
    stock = trained(GRPOTrainer, tmp_path / "stock", on(device))
    ours = trained(LambdaGRPOTrainer, tmp_path / "ours", on(device) | tiny.TRACE_AND_FLOOR)
    assert not torch.equal(tiny.parameters(ours), tiny.parameters(stock))


def linear_dtypes(trainer) -> set[torch.dtype]:
    """Receives the dtypes that the first projection computes."""
    seen: set[torch.dtype] = set()
    layer = trainer.model.model.layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    return seen


@pytest.mark.parametrize("method", METHODS)
def test_a_short_training_under_bfloat16(tmp_path, device, method):
    settings = tiny.DEFAULT | METHODS[method] | on(device) | BF16 | {"method": method, "beta": 0.04}
    trainer = tiny.trainer(
        tmp_path,
        settings=settings,
        model=asked.sharp(),
        processing_class=asked.tokenizer(),
        train_dataset=tiny.Dataset.from_list(asked.rows()),
    )
    before, dtypes = tiny.parameters(trainer).clone(), linear_dtypes(trainer)
    inputs = tiny.capture_inputs(trainer)
    trainer.train()
    after = tiny.parameters(trainer)
    assert dtypes == {torch.bfloat16}
    assert (after.dtype, after.device.type) == (torch.float32, device.type)
    assert after.isfinite().all()
    assert not torch.equal(after.cpu(), before.cpu())
    assert len(inputs) == 3
    for batch in inputs:
        tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
        assert {tensor.device.type for tensor in tensors if tensor.ndim} == {device.type}
        assert batch["advantages"].isfinite().all()
    assert any(batch["advantages"].any() for batch in inputs)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert torch.tensor(losses).isfinite().all()
    if method == "branch":
        assert trainer._rollout.counts().shared > 0
    if method == "probe":
        assert asked.packs(trainer)


@pytest.mark.parametrize("method", ["grpo_lambda", "tempo", "lambda_grpo"])
def test_losses_are_those_of_the_cpu(tmp_path, device, method):
    """Of scripted completions, so that no sampling is between them."""
    logged = []
    for folder, own, precision in (("cpu", {"use_cpu": True}, {}), ("device", on(device), BF16)):
        trainer = trained(
            LambdaGRPOTrainer,
            tmp_path / folder,
            tiny.DEFAULT | {"method": method, "num_iterations": 3} | own | precision,
            reward_funcs=asked.rewarded(TWO_GROUPS_REWARDS),
            rollout_func=tiny.scripted(TWO_GROUPS),
        )
        logged.append([row for row in trainer.state.log_history if "loss" in row])
    on_cpu, on_device = logged
    for want, got in zip(on_cpu, on_device, strict=True):
        assert got["loss"] == pytest.approx(want["loss"], rel=0.1, abs=0.02)
        assert got["grad_norm"] == pytest.approx(want["grad_norm"], rel=0.1)
    assert max(row["grad_norm"] for row in on_cpu) > 0.05


def test_credit_of_a_branched_batch_is_that_of_its_tree(tmp_path, device):
    trainer = test_branching.build(tmp_path, on(device))
    output, rewards = test_branching.scored(trainer)
    assert trainer._rollout.counts().shared > 0
    assert output["advantages"].device.type == device.type
    test_branching.assert_credit_of_the_tree(trainer, output, rewards)
