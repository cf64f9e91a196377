"""The reference that follows the policy (iterative GRPO), with adapters and with whole models."""

import copy

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback

from trl_lambda.checkpoints.manifest import missing_part
from trl_lambda.checkpoints.reference import adapter_pair, load_reference, save_reference

# Traces and process sets are on by default.
SYNCED = {"beta": 0.04, "sync_ref_model": True, "ref_model_sync_steps": 2, "max_steps": 5}


def lora(**options):
    return LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], **options)


def adapter(trainer):
    return torch.cat([p.detach().flatten() for p in adapter_pair(trainer.model)[0]])


def reference(trainer):
    return torch.cat([p.detach().flatten() for p in adapter_pair(trainer.model)[1]])


class Snapshots(TrainerCallback):
    """Trained adapter and reference after each step, the reference as it was moved."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.policy, self.reference = [adapter(trainer)], [reference(trainer)]

    def on_step_end(self, args, state, control, **kwargs):
        self.policy.append(adapter(self.trainer))
        self.reference.append(reference(self.trainer))


@pytest.mark.parametrize("alpha", [1.0, 0.6])
def test_the_adapter_reference_moves_as_written(tmp_path, alpha):
    settings = SYNCED | {"ref_model_mixup_alpha": alpha}
    trainer = tiny.trainer(tmp_path, settings=settings, peft_config=lora())
    assert trainer.args.sync_ref_model
    seen = Snapshots(trainer)
    trainer.add_callback(seen)
    trainer.train()
    expected = seen.policy[0]
    assert torch.equal(seen.reference[0], expected)
    for step in range(1, 6):
        if step % 2 == 0:
            expected = (1 - alpha) * expected + alpha * seen.policy[step]
        torch.testing.assert_close(seen.reference[step], expected)
        assert not torch.equal(seen.policy[step], seen.policy[step - 1])


def test_kl_is_measured_against_that_reference(tmp_path):
    """With α = 1 the KL is zero at the start and after every second step, and not in between."""
    settings = SYNCED | {"ref_model_mixup_alpha": 1.0, "max_steps": 6}
    trainer = tiny.trainer(tmp_path, settings=settings, peft_config=lora())
    inputs = tiny.capture_inputs(trainer)
    trainer.train()
    logged = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    zero = [abs(kl) < 1e-7 for kl in logged]
    assert zero == [True, False, True, False, True, False]
    assert len(inputs) == 6


def test_reference_log_probs_are_those_of_the_policy_it_was_copied_from(tmp_path):
    settings = SYNCED | {"ref_model_mixup_alpha": 1.0, "max_steps": 4}
    trainer = tiny.trainer(tmp_path, settings=settings, peft_config=lora())
    states = []

    class Copy(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            states.append(copy.deepcopy(trainer.model.state_dict()))

    trainer.add_callback(Copy())
    inputs = tiny.capture_inputs(trainer)
    trainer.train()
    fourth = inputs[3]  # generated after step 3, the reference is the policy after step 2
    ids = torch.cat([fourth["prompt_ids"], fourth["completion_ids"]], 1)
    mask = torch.cat([fourth["prompt_mask"], fourth["completion_mask"]], 1)
    T = fourth["completion_ids"].shape[1]
    trainer.model.load_state_dict(states[1])
    with torch.no_grad():
        logits = trainer.model.eval()(input_ids=ids, attention_mask=mask).logits[:, -T - 1 : -1]
    expected = logits.log_softmax(-1).gather(2, fourth["completion_ids"][..., None])[..., 0]
    kept = fourth["completion_mask"].bool()
    torch.testing.assert_close(
        fourth["ref_per_token_logps"][kept], expected[kept], rtol=1e-4, atol=1e-5
    )


def test_the_reference_is_never_trained_and_the_policy_is(tmp_path):
    settings = SYNCED | {"ref_model_sync_steps": 100}
    trainer = tiny.trainer(tmp_path, settings=settings, peft_config=lora())
    start, base = adapter(trainer), copy.deepcopy(trainer.model.get_base_model().state_dict())
    assert not any(p.requires_grad for p in adapter_pair(trainer.model)[1])
    trainer.train()
    assert torch.equal(reference(trainer), start)
    assert not torch.equal(adapter(trainer), start)
    trained = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained == {n for n in trained if ".default" in n}
    after = trainer.model.get_base_model().state_dict()
    frozen = [name for name in base if "lora" not in name]
    assert all(torch.equal(base[name], after[name]) for name in frozen)


def test_an_initialisation_that_changes_the_base_does_so_once(tmp_path):
    """PiSSA takes the adapter's part out of the base weights; the reference's must not go too."""
    start = tiny.model()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = start(input_ids=ids).logits
    trainer = tiny.trainer(
        tmp_path, settings=SYNCED, model=start, peft_config=lora(init_lora_weights="pissa")
    )
    with torch.no_grad():
        torch.testing.assert_close(trainer.model(input_ids=ids).logits, expected)
        trainer.model.set_adapter("ref")
        torch.testing.assert_close(trainer.model(input_ids=ids).logits, expected)


def test_a_pretrained_adapter_has_its_reference_from_trl(tmp_path):
    model = get_peft_model(tiny.model(), lora(init_lora_weights=False))
    trainer = tiny.trainer(tmp_path, settings=SYNCED | {"max_steps": 2}, model=model)
    start = reference(trainer)
    assert torch.equal(start, adapter(trainer))
    trainer.train()
    mixed = (1 - 0.6) * start + 0.6 * adapter(trainer)  # TRL's default of ref_model_mixup_alpha
    torch.testing.assert_close(reference(trainer), mixed)


def test_whole_models_are_synced_by_trl(tmp_path):
    settings = SYNCED | {"ref_model_mixup_alpha": 1.0, "max_steps": 4}
    trainer = tiny.trainer(tmp_path, settings=settings)
    trainer.train()
    synced = torch.cat([p.detach().flatten() for p in trainer.ref_model.parameters()])
    assert torch.equal(synced, tiny.parameters(trainer))


def test_without_kl_there_is_nothing_to_sync(tmp_path):
    with pytest.raises(ValueError, match=r"beta=0\.0"):
        tiny.trainer(tmp_path, settings=SYNCED | {"beta": 0.0}, peft_config=lora())


# -- in checkpoints ------------------------------------------------------------------------------

MOVING = SYNCED | {"max_steps": 4, "ref_model_mixup_alpha": 0.7, "save_strategy": "steps"}


def options(kind):
    return {"peft_config": lora()} if kind == "adapter" else {}


def moved(trainer):
    return torch.cat([p.detach().flatten() for p in trainer._moving_reference()]).clone()


@pytest.mark.parametrize("kind", ["adapter", "whole"])
def test_a_model_that_is_saved_alone_has_its_reference_with_it(tmp_path, kind):
    settings = MOVING | {"save_only_model": True, "save_steps": 2, "max_steps": 2}
    trainer = tiny.trainer(tmp_path, settings=settings, **options(kind))
    start = moved(trainer)
    trainer.train()
    saved = moved(trainer)
    assert not torch.equal(saved, start)
    assert not (tmp_path / "checkpoint-2" / "optimizer.pt").exists()
    again = tiny.trainer(
        tmp_path, settings=MOVING | {"max_steps": 3, "save_strategy": "no"}, **options(kind)
    )
    again.train(resume_from_checkpoint=True)
    assert torch.equal(moved(again), saved), "step 3 moves it not"


@pytest.mark.parametrize("kind", ["adapter", "whole"])
def test_a_reference_that_was_never_saved_is_named_as_that(tmp_path, kind):
    settings = MOVING | {"sync_ref_model": False, "max_steps": 1, "save_steps": 1}
    tiny.trainer(tmp_path, settings=settings, **options(kind)).train()
    again = tiny.trainer(tmp_path, settings=MOVING, **options(kind))
    message = r"checkpoint-1 holds no reference \(reference\.pt\): it was saved without"
    with pytest.raises(ValueError, match=message):
        again.train(resume_from_checkpoint=True)


def test_one_of_other_processes_or_another_model_is_named_as_that(tmp_path):
    parameters = [torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(3))]
    (tmp_path / "reference_0.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no reference\.pt, but reference_0\.pt: .*processes"):
        load_reference(tmp_path, parameters, process=0)
    save_reference(tmp_path, parameters, process=0, writes_whole=True)
    with pytest.raises(ValueError, match="has 2 parameters, and this one has 1"):
        load_reference(tmp_path, parameters[:1], process=0)
    other = [parameters[0], torch.nn.Parameter(torch.zeros(4))]
    with pytest.raises(ValueError, match=r"of shape \(3,\) where this one has \(4,\)"):
        load_reference(tmp_path, other, process=0)


def test_nothing_of_a_whole_checkpoint_is_left_under_a_model_saved_alone(tmp_path):
    """Another run's optimizer beside these weights would be taken for theirs."""
    tiny.trainer(tmp_path, settings=MOVING | {"max_steps": 1, "save_steps": 1}).train()
    folder = tmp_path / "checkpoint-1"
    assert (folder / "optimizer.pt").exists()
    settings = MOVING | {"max_steps": 1, "save_steps": 1, "save_only_model": True}
    tiny.trainer(tmp_path, settings=settings).train()
    tensors = {p.name for p in folder.iterdir() if p.suffix in (".pt", ".pth", ".safetensors")}
    assert tensors == {"model.safetensors", "reference.pt"}


@pytest.mark.parametrize("kind", ["adapter", "whole"])
def test_its_size_is_checked(tmp_path, kind):
    settings = MOVING | {"max_steps": 1, "save_steps": 1}
    tiny.trainer(tmp_path, settings=settings, **options(kind)).train()
    path = tmp_path / "checkpoint-1" / "reference.pt"
    path.write_bytes(path.read_bytes()[:-1])
    assert missing_part(path.parent).startswith("reference.pt has ")
