"""All weights come back, whatever names they were saved under; or resuming is refused."""

import pytest
import runs
import tiny
import tiny_chat
import tiny_vision
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2MoeForCausalLM

from trl_lambda.checkpoints.manifest import write_manifest

STEPS = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_steps": 2,
    "td_error": "tree",
}


def trained_parameters(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def with_vision(output_dir, *, settings=None, **options):
    """A tiny Llava, whose weights transformers saves under other names than they have."""
    image_id = tiny_chat.tokenizer().convert_tokens_to_ids(tiny_chat.IMAGE_TOKEN)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{i}+1="}],
            "image": tiny_vision.image(40 * i),
        }
        for i in range(4)
    ]
    fixed = {"generation_kwargs": {"suppress_tokens": [image_id]}}

    def reward(completions, **columns):
        return [float(len(completion[0]["content"])) for completion in completions]

    return runs.build(
        output_dir,
        STEPS | fixed | (settings or {}),
        model=options.pop("model", None) or tiny_vision.model(),
        processing_class=tiny_vision.processor(),
        reward_funcs=options.pop("reward_funcs", reward),
        train_dataset=Dataset.from_list(rows),
        **options,
    )


@pytest.fixture(scope="module")
def experts_folder(tmp_path_factory):
    return tiny.mixture_of_experts(tmp_path_factory.mktemp("experts"), layers=1)


@pytest.fixture
def with_experts(experts_folder):
    """A tiny mixture of experts: one tensor in the model, saved expert by expert."""

    def make(output_dir, *, settings=None, dtype=torch.float32, **options):
        model = Qwen2MoeForCausalLM.from_pretrained(experts_folder, dtype=dtype)
        return runs.build(output_dir, STEPS | (settings or {}), model=model, **options)

    return make


def lora(**options):
    return LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], **options)


ON_EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.mark.parametrize("kind", ["vision", "experts", "vision_lora", "experts_lora"])
def test_the_remaining_step_is_that_of_a_run_that_never_stopped(kind, tmp_path, with_experts):
    build = with_vision if "vision" in kind else with_experts
    options = {}
    if "lora" in kind:
        parts = ON_EXPERTS if kind == "experts_lora" else None
        options["peft_config"] = lora(target_parameters=parts)
    whole = build(tmp_path / "whole", **options)
    start = trained_parameters(whole)
    whole.train()
    assert all(
        not torch.equal(value, start[name])
        for name, value in whole.model.named_parameters()
        if value.requires_grad and "vision_tower" not in name
    )
    resumed = build(tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-1")
    runs.assert_same_end(resumed, whole)


def test_weights_in_several_files(tmp_path, with_experts):
    trained = with_experts(tmp_path, settings={"max_steps": 1})
    trained.train()
    folder = tmp_path / "checkpoint-1"
    (folder / "model.safetensors").unlink()
    trained.model.save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    fresh = with_experts(tmp_path / "fresh")
    fresh._load_from_checkpoint(str(folder))
    assert torch.equal(tiny.parameters(fresh), tiny.parameters(trained))


def test_parameters_stay_the_same_objects_and_of_their_own_precision(tmp_path, with_experts):
    """An optimizer may hold them already; and bfloat16 must not be rounded on the way."""
    trained = with_experts(tmp_path, dtype=torch.bfloat16)
    trained.model.lm_head.float()
    with torch.no_grad():
        for value in trained.model.parameters():
            value.add_(torch.randn_like(value))
    trained.model.save_pretrained(tmp_path / "checkpoint-1")
    fresh = with_experts(tmp_path / "fresh", dtype=torch.bfloat16)
    fresh.model.lm_head.float()
    before = dict(fresh.model.named_parameters())
    fresh._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    for name, value in fresh.model.named_parameters():
        assert value is before[name]
        assert value.dtype == (torch.float32 if "lm_head" in name else torch.bfloat16)
        assert torch.equal(value, trained.model.get_parameter(name))


def falling_reward(completions, trainer_state, **columns):
    """Best at the first step."""
    return [text.count("a") - 100.0 * trainer_state.global_step for text in completions]


@pytest.mark.parametrize("kind", ["vision", "experts", "plain", "lora"])
def test_the_best_model_at_the_end(kind, tmp_path, with_experts):
    def reward(completions, trainer_state, **columns):
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        return falling_reward(texts, trainer_state)

    def plain(output_dir, *, settings, **options):
        return runs.build(output_dir, STEPS | settings, **options)

    build = {"vision": with_vision, "experts": with_experts}.get(kind, plain)
    trainer = build(
        tmp_path,
        settings={
            "eval_strategy": "steps",
            "eval_steps": 1,
            "per_device_eval_batch_size": 4,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_reward",
            "greater_is_better": True,
        },
        reward_funcs=reward,
        eval_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": "1+1="}] if kind == "vision" else "1+1="}]
        ),
        **({"peft_config": lora()} if kind == "lora" else {}),
    )
    after = []

    trainer.add_callback(runs.AtStepEnd(lambda: after.append(tiny.parameters(trainer).clone())))
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    assert not torch.equal(after[0], after[1])
    assert torch.equal(tiny.parameters(trainer), after[0])


def edit(folder, change):
    """Changes the weights in a checkpoint and makes it look whole."""
    path = next(folder.glob("*model.safetensors"))
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    write_manifest(folder)


@pytest.mark.parametrize("kind", ["plain", "experts", "lora"])
def test_what_is_missing_is_named(kind, tmp_path, with_experts):
    build = with_experts if kind == "experts" else runs.build
    options = {"peft_config": lora()} if kind == "lora" else {}
    build(tmp_path, settings=STEPS | {"max_steps": 1}, **options).train()
    part = "layers.0.self_attn.q_proj"

    def lose(weights):
        for name in [name for name in weights if part in name]:
            del weights[name]

    edit(tmp_path / "checkpoint-1", lose)
    again = build(tmp_path, settings=STEPS, **options)
    with pytest.raises(ValueError, match=rf"checkpoint-1 lacks \d of .*{part}.* would stay as"):
        again.train(resume_from_checkpoint=True)


def test_weights_that_the_class_cannot_read_are_named_too(tmp_path):
    """A class that takes more than its configuration, and has other names than were saved."""
    runs.build(tmp_path, STEPS | {"max_steps": 1}).train()

    class Wrapped(type(tiny.model())):
        def __init__(self, config, extra):
            super().__init__(config)

    model = Wrapped(tiny.model().config, 1)
    model.model.added = nn.Linear(2, 2)
    again = runs.build(tmp_path, STEPS, model=model)
    with pytest.raises(ValueError, match=r"lacks 2 .*model\.added\.weight.* Wrapped: .*extra"):
        again.train(resume_from_checkpoint=True)


def test_such_a_class_resumes_where_its_names_are_those_saved(tmp_path):
    class Wrapped(type(tiny.model())):
        def __init__(self, config, extra):
            super().__init__(config)

    def build(name):
        model = Wrapped(tiny.model().config, 1)
        model.load_state_dict(tiny.model().state_dict())
        return runs.build(tmp_path / name, STEPS, model=model)

    whole = build("whole")
    whole.train()
    resumed = build("resumed")
    resumed.train(resume_from_checkpoint=tmp_path / "whole" / "checkpoint-1")
    runs.assert_same_end(resumed, whole)


def test_a_layer_added_by_hand_comes_back_beside_renamed_ones(tmp_path, with_experts):
    def build(name):
        trainer = with_experts(tmp_path / name)
        torch.manual_seed(len(name))
        trainer.model.model.added = nn.Linear(2, 2)
        return trainer

    trained = build("trained")
    trained.model.save_pretrained(tmp_path / "checkpoint-1")
    fresh = build("fresh")
    assert not torch.equal(tiny.parameters(fresh), tiny.parameters(trained))
    fresh._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert torch.equal(tiny.parameters(fresh), tiny.parameters(trained))


def test_tied_weights_are_saved_once(tmp_path):
    model = tiny.model(tie_word_embeddings=True)
    whole = runs.run(tmp_path, STEPS, model=model)
    resumed = runs.build(tmp_path / "resumed", STEPS, model=tiny.model(tie_word_embeddings=True))
    resumed.train(resume_from_checkpoint=tmp_path / "checkpoint-1")
    runs.assert_same_end(resumed, whole)


def test_an_adapter_that_grew_is_refused(tmp_path):
    runs.run(tmp_path, STEPS | {"max_steps": 1}, peft_config=lora())
    larger = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "o_proj"])
    again = runs.build(tmp_path, STEPS, peft_config=larger)
    with pytest.raises(ValueError, match=r"lacks 4 .*layers\.0\.self_attn\.o_proj\.lora_A"):
        again.train(resume_from_checkpoint=True)


def test_whole_weights_are_no_adapter(tmp_path):
    runs.run(tmp_path, STEPS | {"max_steps": 1})
    again = runs.build(tmp_path, STEPS, peft_config=lora())
    with pytest.raises(ValueError, match=r"checkpoint-1 lacks 8 .*q_proj\.lora_A"):
        again.train(resume_from_checkpoint=True)


def test_an_adapter_beside_whole_weights_is_refused(tmp_path):
    """transformers reads the whole weights, which an adapter's model has under other names."""
    trained = runs.run(tmp_path, STEPS | {"max_steps": 1}, peft_config=lora())
    trained.model.get_base_model().save_pretrained(tmp_path / "checkpoint-1")
    again = runs.build(tmp_path, STEPS, peft_config=lora())
    with pytest.raises(ValueError, match=r"model\.safetensors beside the adapter"):
        again.train(resume_from_checkpoint=True)
