"""Φ through the trainer: that of each prefix scored alone in float64, in either way of scoring."""

import logging

import asked
import pytest
import tiny
import torch
from asked import (
    assert_close,
    assert_draws_nothing,
    build,
    found,
    naive,
    packs,
    rows,
    score,
    sharp,
)
from peft import LoraConfig, PromptTuningConfig
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

V = asked.NEWLINE + 1
TINY = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": tiny.PAD,
    "eos_token_id": tiny.EOS,
    "bos_token_id": None,
}


def saved(tmp_path, model, **options):
    """The model as from_pretrained gives it, with weights large enough to tell tokens apart."""
    for parameter in model.parameters():
        parameter.data.mul_(4.0) if parameter.ndim > 1 else None
    model.save_pretrained(tmp_path / "model")
    return type(model).from_pretrained(tmp_path / "model", dtype=torch.float32, **options)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_they_are_those_of_each_prefix_alone(tmp_path, attention):
    model = sharp()
    model.set_attn_implementation(attention)
    trainer = build(tmp_path, model=model)
    values = found(score(trainer))
    assert packs(trainer)
    wanted = naive(trainer)
    assert_close(values, wanted)
    spread = [value for own in wanted for value in own]
    assert max(spread) > 2 * min(spread)  # numbers worth comparing


def test_one_pass_a_segment_gives_the_same(tmp_path):
    trainer = build(tmp_path, model=sharp())
    packed = found(score(trainer))
    trainer._continuations._packs = False
    slow = found(score(trainer))
    assert_close(slow, naive(trainer))
    assert_close(packed, slow)


def test_packing_is_one_pass_a_completion_and_the_other_way_one_a_segment(tmp_path):
    trainer = build(tmp_path, settings={"per_device_train_batch_size": 8})
    score(trainer)  # the trial
    calls = []
    trainer.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    score(trainer)
    assert calls[0] == 8
    packed, calls[:] = len(calls), []
    trainer._continuations._packs = False
    score(trainer)
    segments = sum(len(asked.lines(text)) for text in asked.TEXTS)
    assert len(calls) - packed == -(-segments // 8) - 1


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("packed", [True, False])
def test_micro_batches_of_any_size(tmp_path, size, packed):
    settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
    trainer = build(tmp_path, model=sharp(), settings=settings)
    trainer._continuations._packs = packed
    assert_close(found(score(trainer)), naive(trainer))


def test_long_rows_are_split_and_passes_stay_within_memory(tmp_path, monkeypatch):
    from trl_lambda.seam import packed

    monkeypatch.setattr(packed, "CHUNK_TOKENS", 13)
    monkeypatch.setattr(packed, "MASK_ENTRIES", 2 * 40**2)
    trainer = build(tmp_path, model=sharp())
    assert_close(found(score(trainer)), naive(trainer))
    assert packs(trainer)


def test_the_temperature_is_the_trainings(tmp_path):
    trainer = build(tmp_path, model=sharp(), settings={"temperature": 0.7})
    values = found(score(trainer))
    assert_close(values, naive(trainer, temperature=0.7))
    with pytest.raises(AssertionError):
        assert_close(values, naive(trainer))


def test_a_number_of_tokens_and_a_function_cut_as_they_say(tmp_path):
    def every_third(text):
        return list(range(0, len(text) + 1, 3))

    trainer = build(tmp_path / "number", model=sharp(), settings={"step_ends": 3})
    assert_close(found(score(trainer), starts=every_third), naive(trainer, starts=every_third))

    def step_ends(ids, texts):
        assert texts[-1] == "<eos>"
        return [t for t in range(len(ids)) if t % 3 == 2]

    trainer = build(tmp_path / "function", model=sharp(), settings={"step_ends": step_ends})
    assert_close(found(score(trainer), starts=every_third), naive(trainer, starts=every_third))


def test_golds_of_two_hundred_tokens(tmp_path):
    golds = ["12" * 100, "7-x " * 49 + "7-x"]
    trainer = build(tmp_path, model=sharp(max_position_embeddings=1024))
    values = found(score(trainer, rows(golds)))
    assert_close(values, naive(trainer, golds=golds))


OTHERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**TINY)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**TINY)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=V,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=256,
            pad_token_id=tiny.PAD,
            eos_token_id=tiny.EOS,
            bos_token_id=None,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_that_take_the_mask(tmp_path, name):
    torch.manual_seed(0)
    trainer = build(tmp_path, model=saved(tmp_path, OTHERS[name]()))
    values = found(score(trainer))
    assert packs(trainer)
    assert_close(values, naive(trainer))
    trainer._continuations._packs = False
    assert_close(found(score(trainer)), values)


WINDOWED = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**TINY, sliding_window=4)),
    "qwen2": lambda: sharp(use_sliding_window=True, sliding_window=4, max_window_layers=1),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_attention_windows_are_scored_the_slow_way_and_the_log_says_so(tmp_path, name, caplog):
    torch.manual_seed(0)
    model = WINDOWED[name]()
    if name == "mistral":
        model = saved(tmp_path, model)
    trainer = build(tmp_path, model=model)
    with caplog.at_level(logging.WARNING):
        values = found(score(trainer))
    assert not packs(trainer)
    assert "one forward pass for each prefix" in caplog.text
    assert "sliding" in caplog.text
    assert_close(values, naive(trainer))


def test_a_model_that_reads_the_mask_otherwise_is_found_out(tmp_path, caplog):
    """Its looks are right, but it makes a causal mask of its own."""
    model = sharp()
    forward = model.model.forward

    def own_mask(*args, attention_mask=None, **kwargs):
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = None
        return forward(*args, attention_mask=attention_mask, **kwargs)

    own_mask.__signature__ = __import__("inspect").signature(forward)
    model.model.forward = own_mask
    trainer = build(tmp_path, model=model)
    with caplog.at_level(logging.WARNING):
        values = found(score(trainer))
    assert not packs(trainer)
    assert "on a trial of 6 continuations the packed pass was" in caplog.text
    del model.model.forward
    assert_close(values, naive(trainer))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.set_attn_implementation("flex_attention"), "attn_implementation='flex"),
        (lambda m: setattr(m.config, "alibi", True), "alibi"),
        (lambda m: setattr(m.config, "layer_types", ["linear_attention"] * 2), "linear_attention"),
        (lambda m: setattr(m.model, "_is_stateful", True), "has a state beside attention"),
    ],
)
def test_what_a_model_looks_like_decides(change, said):
    from trl_lambda.seam.packed import packing_fault

    model = sharp()
    assert packing_fault(model) is None
    change(model)
    assert said in packing_fault(model)


def test_the_way_is_said_before_training(tmp_path, capsys):
    build(tmp_path, settings={"max_steps": 1}).train()
    assert "Answer probes: one forward pass a completion, probes packed behind it." in (
        capsys.readouterr().out
    )


def test_an_adapter(tmp_path):
    torch.manual_seed(1)
    config = LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.3
    )
    trainer = build(tmp_path, model=sharp(), peft_config=config)
    values = found(score(trainer))
    assert packs(trainer)
    assert_close(values, naive(trainer))
    with trainer.model.disable_adapter():
        bare = naive(trainer)
    with pytest.raises(AssertionError):
        assert_close(values, bare, rtol=1e-2)


def test_an_adapter_of_soft_prompts_is_scored_the_slow_way():
    from peft import get_peft_model

    from trl_lambda.seam.packed import packing_fault

    model = get_peft_model(
        tiny.model(vocab_size=V), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    assert "tokens of its own before the prompt" in packing_fault(model)


def test_dropout_does_not_reach_the_values_and_stays_on(tmp_path):
    trainer = build(tmp_path, model=sharp(attention_dropout=0.5))
    assert_close(found(score(trainer)), naive(trainer))
    assert all(module.training for module in trainer.model.modules())


def test_checkpointed_activations(tmp_path):
    trainer = build(tmp_path, model=sharp(), settings={"gradient_checkpointing": True})
    assert_close(found(score(trainer)), naive(trainer))
    trainer.train()


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_within_its_precision(tmp_path, autocast):
    model = sharp() if autocast else sharp().bfloat16()
    trainer = build(tmp_path, model=model, settings={"bf16": autocast})
    packed = found(score(trainer))
    assert packs(trainer)
    trainer._continuations._packs = False
    slow = found(score(trainer))
    assert_close(packed, slow, rtol=0.2, atol=1e-4)
    assert_close(packed, naive(trainer), rtol=0.3, atol=1e-4)


def test_a_mixture_of_experts_that_returns_router_logits(tmp_path):
    from transformers import Qwen2MoeForCausalLM

    folder = tiny.mixture_of_experts(tmp_path / "moe", layers=2, output_router_logits=True)
    model = Qwen2MoeForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.resize_token_embeddings(V)
    trainer = build(tmp_path, model=model)
    values = found(score(trainer))
    assert packs(trainer)
    assert_close(values, naive(trainer, dtype=torch.float32))  # torch has no experts in float64


def test_no_gradient_and_no_graph(tmp_path):
    trainer = build(tmp_path)
    assert not score(trainer)["advantages"].requires_grad
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_the_random_numbers_of_the_training_are_untouched(tmp_path):
    assert_draws_nothing(build(tmp_path))
