"""Adapters, checkpointed activations, bfloat16, mixtures of experts, dropout: under full credit.

All with traces, process sets and a KL term, on scripted completions that share prefixes.
"""

import logging

import pytest
import tiny
import torch
from datasets import Dataset
from peft import LoraConfig
from test_trainer import build
from transformers import Qwen2MoeForCausalLM, TrainerCallback

FULL = {"trace_style": "both", "beta": 0.04, "max_steps": 1, "gradient_accumulation_steps": 1}
MODES = ["advantage", "ratio", "weight"]


def gradients(trainer):
    """By name, of the first step, before they are clipped."""
    found = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            found.update(
                {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
            )

    trainer.args.max_grad_norm = 0.0
    trainer.add_callback(Keep())
    trainer.train()
    return found


@pytest.mark.parametrize("mode", MODES)
def test_an_adapter_gets_the_gradient_of_the_weights_it_stands_for(tmp_path, mode):
    """W = W₀ + s·BA: at B = 0 the gradient of B is s·(∂L/∂W)·Aᵀ, and that of A is zero."""
    settings = FULL | {"trace_mode": mode}
    whole = gradients(build(tmp_path / "whole", settings=settings))
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"])
    trainer = build(tmp_path / "lora", settings=settings, peft_config=config)
    adapter = gradients(trainer)
    named = dict(trainer.model.named_parameters())
    for name, gradient in adapter.items():
        if "lora_B" not in name:
            assert not gradient.any()
            continue
        A = named[name.replace("lora_B", "lora_A")].detach()
        weight = name.removeprefix("base_model.model.").replace("lora_B.default.", "")
        torch.testing.assert_close(gradient, 3 * whole[weight] @ A.T, rtol=1e-4, atol=1e-7)
    assert len(adapter) == 4


@pytest.mark.parametrize("mode", MODES)
def test_checkpointed_activations_change_nothing(tmp_path, mode):
    settings = FULL | {"trace_mode": mode}
    plain = gradients(build(tmp_path / "plain", settings=settings))
    kept = gradients(build(tmp_path / "kept", settings=settings | {"gradient_checkpointing": True}))
    assert plain.keys() == kept.keys()
    for name in plain:
        torch.testing.assert_close(kept[name], plain[name])


def test_an_adapter_with_checkpointed_activations_learns(tmp_path):
    settings = FULL | {"trace_mode": "ratio", "gradient_checkpointing": True, "max_steps": 3}
    config = LoraConfig(target_modules=["q_proj", "v_proj"], r=2)
    trainer = build(tmp_path, settings=settings, peft_config=config)
    start = tiny.parameters(trainer).clone()
    trainer.train()
    assert not torch.equal(tiny.parameters(trainer), start)
    assert trainer.state.log_history[1]["kl"] > 0


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_is_float32_within_its_precision(tmp_path, mode):
    settings = FULL | {"trace_mode": mode}
    exact = build(tmp_path / "exact", settings=settings)
    rough = build(tmp_path / "rough", settings=settings | {"bf16": True})
    wanted, found = (
        torch.cat([gradient.flatten() for gradient in gradients(trainer).values()])
        for trainer in (exact, rough)
    )
    assert (found - wanted).norm() < 0.1 * wanted.norm()
    assert not torch.equal(found, wanted)
    first, second = (trainer.state.log_history[0] for trainer in (exact, rough))
    assert second["loss"] == pytest.approx(first["loss"], abs=1e-3)


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Folder of a tiny mixture of experts."""
    return tiny.mixture_of_experts(
        tmp_path_factory.mktemp("experts"), layers=2, output_router_logits=True
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_experts_auxiliary_loss_is_added_once(tmp_path, experts, mode):
    def run(coefficient):
        model = Qwen2MoeForCausalLM.from_pretrained(experts, dtype=torch.float32)
        settings = FULL | {"trace_mode": mode, "router_aux_loss_coef": coefficient}
        trainer = build(tmp_path / str(coefficient), model=model, settings=settings)
        return gradients(trainer), trainer.state.log_history[0]

    without, plain = run(0.0)
    once, single = run(0.5)
    twice, _ = run(1.0)
    assert single["loss"] - plain["loss"] == pytest.approx(0.5 * single["aux_loss"], rel=1e-4)
    assert single["kl"] == plain["kl"]
    router = [name for name in once if name.endswith("mlp.gate.weight")]
    assert len(router) == 2
    for name in router:  # linear in the coefficient: the credit part is there, and there once
        torch.testing.assert_close(
            twice[name], 2 * once[name] - without[name], rtol=1e-3, atol=1e-6
        )
        assert not torch.allclose(once[name], without[name])


SAID = "The policy trains with dropout"


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, "theorem 1"),
        ({"td_error": "tree", "process_set_weighting": False}, "theorem 1"),
        ({"trace_mode": "ratio", "process_set_weighting": False}, "log-ratio is not zero"),
        ({"process_set_weighting": False}, None),
        (tiny.NEUTRAL, None),
    ],
    ids=str,
)
def test_dropout_is_warned_of_where_it_does_harm(tmp_path, caplog, settings, warned):
    with caplog.at_level(logging.WARNING):
        tiny.trainer(tmp_path, model=tiny.model(attention_dropout=0.25), settings=settings)
    said = [record.getMessage() for record in caplog.records if SAID in record.getMessage()]
    if warned is None:
        assert said == []
    else:
        assert len(said) == 1
        assert "attention_dropout 0.25" in said[0]
        assert warned in said[0]


def test_an_adapters_dropout_counts_unless_it_is_disabled(tmp_path, caplog):
    config = LoraConfig(r=2, lora_dropout=0.1, target_modules=["q_proj"])
    with caplog.at_level(logging.WARNING):
        tiny.trainer(tmp_path, peft_config=config)
    assert "lora_dropout 0.1" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        tiny.trainer(tmp_path, peft_config=config, settings={"disable_dropout": True})
        tiny.trainer(tmp_path)
    assert SAID not in caplog.text


def test_what_the_warning_says_of_shared_prefixes_is_true(tmp_path):
    """Two equal completions: one log-probability without dropout, two with it."""

    def spread(rate):
        trainer = build(
            tmp_path / str(rate),
            completions=[[5, 6, tiny.EOS]] * 8,
            rewards=[1.0, 0.0] * 4,
            train_dataset=Dataset.from_list([{"prompt": "1+1="}] * 8),
            model=tiny.model(attention_dropout=rate),
            settings=FULL | {"num_iterations": 2},
        )
        inputs = tiny.capture_inputs(trainer)
        trainer.train()
        return inputs[0]["old_per_token_logps"].std(0).max().item()

    assert spread(0.0) < 1e-6
    assert spread(0.5) > 1e-4
