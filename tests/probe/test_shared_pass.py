"""Probes behind TRL's own pass for old log-probabilities: its numbers, ours, and no pass more."""

import logging
from types import SimpleNamespace

import asked
import pytest
import tiny
import torch
from asked import (
    GOLDS,
    RAW,
    assert_close,
    assert_draws_nothing,
    build,
    found,
    naive,
    rows,
    score,
    sharp,
)
from peft import LoraConfig
from test_values import OTHERS, TINY, WINDOWED, saved
from transformers import LlamaConfig, LlamaForCausalLM
from trl import GRPOTrainer

TWICE = {"num_iterations": 2}  # TRL needs old log-probabilities
SMALL = TWICE | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
SHARED = "go along with TRL's forward pass"


def built(tmp_path, *, shares=None, settings=None, model=None, **kw):
    trainer = build(tmp_path, settings=TWICE | (settings or {}), model=model or sharp(), **kw)
    trainer._continuations.shares = shares
    return trainer


def stock(tmp_path, settings=None, model=None, texts=asked.TEXTS, **kw):
    """TRL's own trainer on the same batch."""
    return tiny.trainer(
        tmp_path,
        GRPOTrainer,
        reward_funcs=asked.rewarded(asked.REWARDS),
        rollout_func=kw.pop("rollout_func", None) or tiny.scripted(asked.completions(texts)),
        settings={"max_completion_length": 16, "loss_type": "dr_grpo"} | TWICE | (settings or {}),
        model=model or sharp(),
        processing_class=asked.tokenizer(),
        train_dataset=tiny.Dataset.from_list(rows()),
        **kw,
    )


def shares(trainer) -> bool:
    return trainer._continuations.shares


def backbone_calls(trainer, batch=None) -> list[tuple[int, ...]]:
    """Shapes of what the policy's backbone gets for one batch."""
    policy = trainer.model
    policy = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    calls = []
    handle = policy.model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    score(trainer, batch)
    handle.remove()
    return calls


def assert_same_text(output, theirs, name="old_per_token_logps", **limits):
    """On the tokens of completions; what stands at padding nobody reads."""
    there = theirs["completion_mask"].bool()
    assert torch.equal(output["completion_ids"], theirs["completion_ids"])
    assert output[name].shape == theirs[name].shape
    limits = {"rtol": 1e-5, "atol": 1e-5} | limits
    torch.testing.assert_close(output[name][there], theirs[name][there], **limits)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("settings", [TWICE, SMALL, SMALL | {"pad_to_multiple_of": 8}])
def test_values_and_trls_numbers_are_those_of_separate_passes(tmp_path, attention, settings):
    model = sharp()
    model.set_attn_implementation(attention)
    trainer = built(tmp_path / "shared", model=model, settings=settings)
    output = score(trainer)
    assert shares(trainer)
    values, wanted = found(output), naive(trainer)
    assert_close(values, wanted)
    spread = [value for own in wanted for value in own]
    assert max(spread) > 2 * min(spread)  # numbers worth comparing
    model = sharp()
    model.set_attn_implementation(attention)
    alone = built(tmp_path / "alone", shares=False, model=model, settings=settings)
    assert_close(values, found(score(alone)))
    model = sharp()
    model.set_attn_implementation(attention)
    theirs = score(stock(tmp_path / "stock", model=model, settings=settings))
    assert_same_text(output, theirs)
    assert theirs["old_per_token_logps"].std() > 0.5


def test_prompts_of_uneven_length(tmp_path):
    """Padding on the left moves all positions of a row."""
    texts = ["1+1=", "7-x#ab c+12="]
    batch = [{"prompt": texts[i // 4], "answer": GOLDS[i // 4]} for i in range(8)]
    trainer = built(tmp_path / "shared")
    output = score(trainer, batch)
    assert shares(trainer)
    alone = built(tmp_path / "alone", shares=False)
    assert_close(found(output), found(score(alone, batch)))
    assert_same_text(output, score(stock(tmp_path / "stock"), batch))


@pytest.mark.parametrize("settings", [TWICE, SMALL, TWICE | {"beta": 0.04}])
def test_there_is_no_pass_beside_trls(tmp_path, settings):
    theirs = backbone_calls(stock(tmp_path / "stock", settings=settings))
    trainer = built(tmp_path / "shared", settings=settings)
    score(trainer)  # the trials
    calls = backbone_calls(trainer)
    assert [size for size, _ in calls] == [size for size, _ in theirs]
    assert all(own > other for (_, own), (_, other) in zip(calls, theirs, strict=True))
    alone = built(tmp_path / "alone", shares=False, settings=settings)
    score(alone)
    assert len(backbone_calls(alone)) > len(theirs)


def test_where_trl_makes_no_pass_there_is_one_of_our_own(tmp_path):
    once = {"num_iterations": 1}
    assert backbone_calls(stock(tmp_path / "stock", settings=once)) == []
    trainer = built(tmp_path / "ours", settings=once)
    score(trainer)
    assert len(backbone_calls(trainer)) == 1
    assert shares(trainer) is None
    assert trainer._way_of_scoring() == "one forward pass a completion, probes packed behind it"


def test_a_generation_for_several_optimizer_steps(tmp_path):
    """steps_per_generation > gradient_accumulation_steps: old log-probabilities, too."""
    settings = {"num_iterations": 1, "per_device_train_batch_size": 4, "steps_per_generation": 2}
    trainer = built(tmp_path / "ours", settings=settings)
    output = score(trainer)
    assert shares(trainer)
    assert_close(found(output), naive(trainer))
    assert_same_text(output, score(stock(tmp_path / "stock", settings=settings)))


def with_vllm(trainer):
    """As TRL sets it for use_vllm=True, which itself wants an engine."""
    trainer.use_vllm, trainer._last_loaded_step = True, -1
    trainer.vllm_generation = SimpleNamespace(sync_weights=lambda: None)
    return trainer


def test_the_pass_that_vllms_correction_needs(tmp_path):
    scripted = tiny.scripted(asked.completions())
    generator = torch.Generator().manual_seed(0)
    sampled = [torch.randn(len(row), generator=generator) for row in asked.completions()]

    def rollout(prompts, trainer):
        logps = [(-3 + noise).tolist() for noise in sampled]
        return scripted(prompts, trainer) | {"logprobs": logps}

    once = {"num_iterations": 1, "vllm_importance_sampling_correction": True}
    trainer = with_vllm(built(tmp_path / "ours", settings=once, rollout_func=rollout))
    output = score(trainer)
    assert shares(trainer)
    assert_close(found(output), naive(trainer))
    theirs = score(with_vllm(stock(tmp_path / "stock", settings=once, rollout_func=rollout)))
    torch.testing.assert_close(
        output["importance_sampling_ratio"],
        theirs["importance_sampling_ratio"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_without_the_correction_vllm_needs_none(tmp_path):
    once = {"num_iterations": 1, "vllm_importance_sampling_correction": False}
    trainer = with_vllm(built(tmp_path, settings=once))
    assert_close(found(score(trainer)), naive(trainer))
    assert shares(trainer) is None


@pytest.mark.parametrize("iterations", [1, 2])
def test_an_adapters_reference_pass_is_left_alone(tmp_path, iterations):
    """It is a pass of the same model, with the adapter off."""
    settings = {"num_iterations": iterations, "beta": 0.04}

    def adapter():
        torch.manual_seed(1)
        return LoraConfig(**LORA)

    trainer = built(tmp_path / "ours", settings=settings, peft_config=adapter())
    output = score(trainer)
    assert shares(trainer) == (True if iterations == 2 else None)
    assert_close(found(output), naive(trainer))
    other = stock(tmp_path / "stock", settings=settings, peft_config=adapter())
    theirs = score(other)
    there = theirs["completion_mask"].bool()
    name = "ref_per_token_logps"
    assert torch.equal(output[name][there], theirs[name][there])
    if iterations == 2:
        assert_same_text(output, theirs)
        apart = theirs["old_per_token_logps"] - theirs[name]
        assert apart[there].abs().max() > 0.1  # the adapter does something
    calls, stocks = backbone_calls(trainer), backbone_calls(other)
    assert len(calls) == len(stocks) + (iterations == 1)
    assert calls[iterations - 1] == stocks[-1]


def test_a_reference_model_is_left_alone(tmp_path):
    settings = {"beta": 0.04}
    output = score(built(tmp_path / "ours", settings=settings))
    theirs = score(stock(tmp_path / "stock", settings=settings))
    assert torch.equal(output["ref_per_token_logps"], theirs["ref_per_token_logps"])


def test_what_tools_wrote_is_no_segment_and_is_seen(tmp_path):
    masks = [[1] * len(row) for row in asked.completions()]
    masks[0][2:4], masks[2][0:3] = [0, 0], [0, 0, 0]

    def rollout():
        return tiny.scripted(asked.completions(), env_mask=masks)

    trainer = built(tmp_path / "shared", rollout_func=rollout())
    score(trainer)
    theirs = backbone_calls(stock(tmp_path / "stock", rollout_func=rollout()))
    assert len(backbone_calls(trainer)) == len(theirs)  # nothing was asked anew
    trainer = built(tmp_path / "again", rollout_func=rollout())
    alone = built(tmp_path / "alone", shares=False, rollout_func=rollout())
    credit, wanted = score(trainer)["advantages"], score(alone)["advantages"]
    torch.testing.assert_close(credit, wanted, rtol=1e-4, atol=1e-6)
    unmasked = score(built(tmp_path / "unmasked"))["advantages"]
    assert (unmasked - wanted).abs().max() > 1e-3  # the mask says something


def test_truncated_completions_that_are_masked_out(tmp_path):
    cut = [row[:-1] if i in (1, 4) else row for i, row in enumerate(asked.completions())]
    settings = {"mask_truncated_completions": True}
    trainer = built(tmp_path / "shared", settings=settings, rollout_func=tiny.scripted(cut))
    output = score(trainer)
    assert shares(trainer)
    alone = built(tmp_path / "alone", shares=False, settings=settings)
    alone.rollout_func = tiny.scripted(cut)
    torch.testing.assert_close(
        output["advantages"], score(alone)["advantages"], rtol=1e-4, atol=1e-6
    )
    theirs = stock(tmp_path / "stock", settings=settings, rollout_func=tiny.scripted(cut))
    assert_same_text(output, score(theirs))
    assert len(backbone_calls(trainer)) == 1


def test_branched_completions(tmp_path):
    """Their forks take passes of the policy before TRL's."""
    outputs = []
    for how in (None, False):
        trainer = tiny.trainer(
            tmp_path / str(how),
            settings=tiny.DEFAULT
            | RAW
            | TWICE
            | {"rollout": "branch", "max_completion_length": 16, "step_ends": 4},
            model=sharp(),
            processing_class=asked.tokenizer(),
            train_dataset=tiny.Dataset.from_list(rows()),
        )
        trainer._continuations.shares = how
        torch.manual_seed(3)
        outputs.append(score(trainer))
        assert shares(trainer) == (how is None)
    shared, alone = outputs
    assert_same_text(shared, alone)
    torch.testing.assert_close(shared["advantages"], alone["advantages"], rtol=1e-3, atol=1e-5)


def test_an_evaluation(tmp_path):
    trainer = built(tmp_path)
    trainer.model.eval()
    output = trainer._generate_and_score_completions(rows())
    assert shares(trainer)
    assert_close(found(output), naive(trainer))


def test_rows_without_a_gold(tmp_path):
    trainer = built(tmp_path / "shared")
    batch = rows([None, "7-x"])
    output = score(trainer, batch)
    alone = score(built(tmp_path / "alone", shares=False), batch)
    torch.testing.assert_close(output["advantages"], alone["advantages"], rtol=1e-4, atol=1e-6)
    none = score(trainer, rows([None, None]))
    theirs = stock(tmp_path / "stock")
    assert torch.equal(none["old_per_token_logps"], score(theirs)["old_per_token_logps"])


NOT_SHARED = {
    "dropout": (lambda: sharp(attention_dropout=0.5), "attention_dropout=0.5 would be"),
    "gpt2": (OTHERS["gpt2"], "its positions are not rotary"),
    "window": (WINDOWED["qwen2"], "sliding"),
    "dynamic": (
        lambda: LlamaForCausalLM(
            LlamaConfig(
                **TINY,
                max_position_embeddings=256,
                rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
            )
        ),
        "depends on the longest position",
    ),
}


@pytest.mark.parametrize("name", NOT_SHARED)
def test_models_that_cannot_share_take_a_pass_of_their_own(tmp_path, name, caplog):
    make, said = NOT_SHARED[name]
    torch.manual_seed(0)
    model = saved(tmp_path, make()) if name in ("gpt2", "dynamic") else make()
    trainer = built(tmp_path, model=model)
    assert "beside TRL's for old log-probabilities" in trainer._way_of_scoring()
    with caplog.at_level(logging.WARNING):
        values = found(score(trainer))
    assert said in caplog.text
    assert SHARED not in caplog.text
    assert_close(values, naive(trainer))


def test_adapters_with_dropout_take_a_pass_of_their_own(tmp_path, caplog):
    torch.manual_seed(1)
    trainer = built(tmp_path, peft_config=LoraConfig(**LORA, lora_dropout=0.3))
    with caplog.at_level(logging.WARNING):
        assert_close(found(score(trainer)), naive(trainer))
    assert "Dropout.p=0.3 would be in the values" in caplog.text


def test_a_model_whose_padded_rows_turn_out_others_is_found_out(tmp_path, caplog):
    """Its looks are right, but it counts positions from its mask, where it is told none."""
    model = sharp()
    backbone = model.model
    forward = backbone.forward

    def counting(*args, attention_mask=None, position_ids=None, **kwargs):
        if position_ids is None and attention_mask is not None:
            position_ids = 3 * (attention_mask.cumsum(1) - 1).clamp(min=0)
        return forward(*args, attention_mask=attention_mask, position_ids=position_ids, **kwargs)

    counting.__signature__ = __import__("inspect").signature(forward)
    backbone.forward = counting
    trainer = built(tmp_path, model=model)
    with caplog.at_level(logging.WARNING):
        score(trainer)
    assert not shares(trainer)
    assert "the shared pass was" in caplog.text


def test_more_chunks_than_a_row_may_hold_take_a_pass_of_their_own(tmp_path, monkeypatch):
    from trl_lambda.seam import shared

    monkeypatch.setattr(shared, "CHUNK_TOKENS", 13)
    trainer = built(tmp_path)
    assert_close(found(score(trainer)), naive(trainer))
    assert len(backbone_calls(trainer)) == 2


def test_passes_stay_within_memory(tmp_path, monkeypatch):
    from trl_lambda.seam import shared

    trainer = built(tmp_path)
    score(trainer)
    ((_, width),) = backbone_calls(trainer)
    monkeypatch.setattr(shared, "MASK_ENTRIES", 3 * width**2)
    assert [size for size, _ in backbone_calls(trainer)] == [3, 3, 2]
    assert_close(found(score(trainer)), naive(trainer))


def test_golds_that_a_rollout_brings_along(tmp_path):
    """Its fields reach the data set's columns only after TRL's pass."""
    brought = tiny.scripted(asked.completions(), answer=["21"] * 4 + ["x-7"] * 4)  # as long
    trainer = built(tmp_path / "other", rollout_func=brought)
    assert_close(found(score(trainer)), naive(trainer, golds=["21", "x-7"]))
    assert len(backbone_calls(trainer)) == 2  # asked of the old ones, then anew
    brought = tiny.scripted(asked.completions(), solution=["12"] * 4 + ["7-x"] * 4)
    data = tiny.Dataset.from_list(
        [{"prompt": row["prompt"]} for row in rows()]
    ).to_iterable_dataset()
    data = data.map(lambda row: row)  # a stream: its columns are not known
    trainer = built(tmp_path / "none", rollout_func=brought, train_dataset=data)
    assert_close(
        found(score(trainer, [{"prompt": row["prompt"]} for row in rows()])), naive(trainer)
    )


def test_a_function_that_cuts_is_asked_once_a_completion(tmp_path):
    calls = []

    def step_ends(ids, texts):
        calls.append(len(ids))
        return [i for i, text in enumerate(texts) if text == "\n"]

    score(built(tmp_path, settings={"step_ends": step_ends}))
    assert len(calls) == 8


def test_what_a_function_raises_comes_with_the_batchs_rewards(tmp_path):
    def step_ends(ids, texts):
        return [len(ids)]

    trainer = built(tmp_path, settings={"step_ends": step_ends})
    with pytest.raises(ValueError, match=r"step_ends .* returned"):
        score(trainer)


def test_other_methods_make_trls_pass_bit_for_bit(tmp_path):
    trainer = tiny.trainer(
        tmp_path / "ours",
        reward_funcs=asked.rewarded(asked.REWARDS),
        rollout_func=tiny.scripted(asked.completions()),
        settings=tiny.DEFAULT | TWICE | {"max_completion_length": 16},
        model=sharp(),
        processing_class=asked.tokenizer(),
        train_dataset=tiny.Dataset.from_list(rows()),
    )
    theirs = score(stock(tmp_path / "stock"))["old_per_token_logps"]
    assert torch.equal(score(trainer)["old_per_token_logps"], theirs)
    assert shares(trainer) is None


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"temperature": 0.7}])
def test_a_training_is_that_with_passes_of_its_own(tmp_path, settings):
    settings = settings | {"trace_lambda": 0.8, "max_steps": 4, "top_entropy_quantile": 0.5}
    trained = []
    for how in (None, False):
        trainer = built(tmp_path / str(how), shares=how, settings=settings)
        trainer.train()
        trained.append(tiny.parameters(trainer))
        assert shares(trainer) == (how is None)
    torch.testing.assert_close(*trained, rtol=1e-3, atol=1e-4)
    assert (trained[0] - tiny.parameters(built(tmp_path / "new"))).abs().max() > 1e-2


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_within_its_precision(tmp_path, autocast):
    def made():
        return sharp() if autocast else sharp().bfloat16()

    trainer = built(tmp_path / "shared", model=made(), settings={"bf16": autocast})
    output = score(trainer)
    assert shares(trainer)
    assert_close(found(output), naive(trainer), rtol=0.3, atol=1e-4)
    theirs = score(stock(tmp_path / "stock", model=made(), settings={"bf16": autocast}))
    assert_same_text(output, theirs, rtol=0.05, atol=0.3)


def test_a_mixture_of_experts_that_returns_router_logits(tmp_path):
    from transformers import Qwen2MoeForCausalLM

    folder = tiny.mixture_of_experts(tmp_path / "moe", layers=2, output_router_logits=True)

    def made():
        model = Qwen2MoeForCausalLM.from_pretrained(folder, dtype=torch.float32)
        torch.manual_seed(0)
        model.resize_token_embeddings(asked.NEWLINE + 1)
        return model

    trainer = built(tmp_path / "shared", model=made())
    output = score(trainer)
    assert shares(trainer)
    assert_close(found(output), naive(trainer, dtype=torch.float32))
    assert_same_text(output, score(stock(tmp_path / "stock", model=made())))


def test_random_numbers_of_the_training_are_untouched(tmp_path):
    assert_draws_nothing(built(tmp_path))


def test_the_way_is_said_before_training_and_when_it_is_tried(tmp_path, capsys, caplog):
    with caplog.at_level(logging.INFO):
        build(tmp_path, settings=TWICE | {"max_steps": 1}).train()
    said = "Answer probes: in TRL's pass for old log-probabilities, packed behind the completions."
    assert said in capsys.readouterr().out
    assert caplog.text.count(SHARED) == 1
